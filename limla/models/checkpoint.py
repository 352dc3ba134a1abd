"""Checkpoints: a model's weights with what is needed to use them, in one file that is never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limla.errors import DataError, SettingsError
from limla.files import atomic_open, file_sha256
from limla.models import user
from limla.models.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LoadedModel,
    ModelInfo,
    build_model,
    canonical_name,
    check_output,
    with_normalisation,
)
from limla.models.weights import load_into, read_file
from limla.progress import SILENT, Progress
from limla.types import Preprocessing

FORMAT = "limla-checkpoint-1"


def save_checkpoint(
    path: Path, model: nn.Module, info: ModelInfo, training_state: dict[str, Any] | None = None
) -> None:
    """Write `model` (with its normalisation layer) and `info`, whole or not at all.

    Args:
        path: the file; an existing one is replaced.
        training_state: optimizer state and counters for going on; plain values and tensors only.
    """
    content = {"format": FORMAT, "info": info.as_dict(), "model": model.state_dict()}
    if training_state is not None:
        content["training"] = training_state
    with atomic_open(path) as file:
        torch.save(content, file)


def checkpoint_id(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256."""
    return file_sha256(path)[:16]


def read_checkpoint(path: Path) -> tuple[ModelInfo, dict[str, torch.Tensor], dict[str, Any]]:
    """(info, state dict, training state) of a limla checkpoint; the training state is {} in `best.pt`.

    Raises `DataError` for a file that is missing, damaged, refused, or not a limla checkpoint.
    """
    content = read_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{path}: not a limla checkpoint; for weights that limla did not train name the model too: "
            "--model package.module:function --weights FILE"
        )
    try:
        return ModelInfo.from_dict(content["info"]), content["model"], content.get("training", {})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged checkpoint ({type(error).__name__}: {error})") from error


def load_checkpoint(
    path: Path, device: str | torch.device = "cpu", own_model: str | None = None
) -> LoadedModel:
    """Load a model that limla trained, in eval mode on `device`.

    Args:
        path: `best.pt` or `last.pt`.
        device: where the model goes.
        own_model: "package.module:function" if the checkpoint is of the user's own model. A checkpoint only
            names that function; it is imported when the user names it too (here or, in this process, to
            `train`), because importing runs code.

    Raises `DataError` for an unusable file and `SettingsError` when `own_model` is needed or another one.
    """
    path = Path(path)
    info, state, _ = read_checkpoint(path)
    try:
        name = canonical_name(info.model)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if user.is_spec(name) and own_model != name and not user.has_consent(name):
        raise SettingsError(
            f"{path}: trained with the model '{name}' of your own; add --model {name} to have it imported"
        )
    if own_model is not None and canonical_name(own_model) != name:
        raise SettingsError(f"{path}: a checkpoint of the model '{name}', not of '{own_model}'")
    image_size = info.preprocessing.image_size if info.preprocessing.resize == "crop" else None
    with torch.random.fork_rng(devices=[]):
        model = build_model(name, info.num_classes, mean=info.mean, std=info.std, image_size=image_size)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: its weights do not fit the model '{name}': {reason}") from error
    return LoadedModel(model.eval().to(device), info, checkpoint_id(path))


def load_user_model(
    spec: str,
    weights: Path,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = SILENT,
) -> LoadedModel:
    """Load a trained model that limla never saw, in eval mode on `device`.

    Args:
        spec: "package.module:function", or a name `build_model` knows.
        weights: a plain state dict, also under "state_dict" and with `module.` prefixes; or a limla checkpoint.
        class_names: of the data, in the order of the model's outputs.
        preprocessing: resize and crop the model expects.
        mean, std: of its normalisation on the [0, 1] scale; by default that of a limla checkpoint, else ImageNet's.
            A model that normalises inside takes (0, 0, 0) and (1, 1, 1).

    Raises `DataError` for an unreadable file, `SettingsError` when model, weights and data do not fit.
    """
    name = canonical_name(spec)
    weights = Path(weights)
    image_size = preprocessing.image_size if preprocessing.resize == "crop" else None
    num_classes = len(class_names)
    with torch.random.fork_rng(devices=[]):
        built = build_model(name, num_classes, image_size=image_size)
    backbone = built.get_submodule("backbone")
    recorded = load_into(backbone, weights, num_classes, progress=progress) or (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = tuple(mean or recorded[0]), tuple(std or recorded[1])
    model = with_normalisation(backbone, mean, std)
    if image_size is not None:
        check_output(model, name, num_classes, (image_size, image_size))
    info = ModelInfo(name, num_classes, tuple(class_names), preprocessing, mean, std)
    return LoadedModel(model.eval().to(device), info, checkpoint_id(weights))
