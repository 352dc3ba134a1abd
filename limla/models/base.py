"""What a model is in limla, and how one is built by name."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limla.errors import SettingsError, UnknownNameError
from limla.progress import SILENT, Progress
from limla.types import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COMPACT = "compact"
NO_WEIGHTS = "none"
IMAGENET = "imagenet"

SOURCE_DATA_IDS = "source_data_ids"
"""Entry of `ModelInfo.extra`: split → data id of the originals behind the variants it was trained on."""

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError)
"""What a forward pass raises when a model and its input do not fit."""


class Normalise(nn.Module):
    """The first layer: (images - mean) / std per channel, images (N, 3, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3:
            raise SettingsError(
                f"mean {tuple(mean)} and std {tuple(std)}: give three numbers each, for R, G, B"
            )
        if not all(-10 < value < 10 for value in mean) or not all(1e-6 < value < 1e3 for value in std):
            raise SettingsError(
                f"mean {tuple(mean)}, std {tuple(std)}: they belong to images in [0, 1], so std lies above 0 "
                "(values of images in 0 to 255 must be divided by 255)"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in [0, 1] → the same shape, normalised."""
        return (images - self.mean) / self.std


def with_normalisation(backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """`Normalise`, then `backbone`: a model on [0, 1] images."""
    return nn.Sequential(OrderedDict(normalise=Normalise(mean, std), backbone=backbone))


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says about its model.

    Attributes:
        model: canonical name ("mobilenet_v2", "compact", "package.module:function").
        num_classes: outputs.
        class_names: index = class index; as many as `num_classes`.
        preprocessing: what the model expects of its images.
        mean, std: of the first layer, per channel on the [0, 1] scale.
        dataset: dataset name.
        train_codec: "source" or a codec name; "unknown" when limla did not train it.
        train_quality: "source", "10", "1+10+50", "source+10"; "unknown" when limla did not train it.
        train_method: "standard", or how training differed from it, as conditions record it.
        seed: of training; -1 unknown.
        extra: more, JSON-like.
    """

    model: str
    num_classes: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    dataset: str = "unknown"
    train_codec: str = "unknown"
    train_quality: str = "unknown"
    train_method: str = "standard"
    seed: int = -1
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As plain values; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelInfo:
        """The inverse of `as_dict`; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(
            **{
                **values,
                "class_names": tuple(values["class_names"]),
                "preprocessing": Preprocessing(**values["preprocessing"]),
                "mean": tuple(values["mean"]),
                "std": tuple(values["std"]),
            }
        )


@dataclass
class LoadedModel:
    """A model ready for use.

    Attributes:
        model: (N, 3, H, W) float32 in [0, 1] → (N, C) logits; in eval mode.
        info: where it comes from.
        checkpoint_id: first 16 hexadecimal digits of the SHA-256 of its file.
    """

    model: nn.Module
    info: ModelInfo
    checkpoint_id: str


def model_names() -> list[str]:
    """Every name `build_model` knows, without users' own."""
    from limla.models import torchvision

    return [COMPACT, *torchvision.names()]


def canonical_name(name: str) -> str:
    """The one spelling of a model's name: "MobileNetV2" → "mobilenet_v2"; a user's address stays as it is.

    Raises `UnknownNameError` with the closest known names. Imports nothing of the user's.
    """
    from limla.models import torchvision, user

    if user.is_spec(name):
        return name
    if name.strip().lower() == COMPACT:
        return COMPACT
    found = torchvision.find(name)
    if found is None:
        known = model_names()
        close = difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5)
        guess = f"did you mean {' or '.join(close)}? " if close else ""
        raise UnknownNameError(
            f"unknown model '{name}': {guess}choose compact, MobileNetV2, VGG16, ResNet50, EfficientNet-B0 or any of "
            f"torchvision's {len(known) - 1} classification models, or your own as package.module:function"
        )
    return found


def build_model(
    name: str,
    num_classes: int,
    weights: str | Path = NO_WEIGHTS,
    freeze_backbone: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    progress: Progress = SILENT,
) -> nn.Module:
    """Build a model on [0, 1] images with a head for `num_classes`.

    Args:
        name: see `canonical_name`; a user's function is imported and called.
        num_classes: outputs, at least 1.
        weights: "none" draws them at random (seed torch before); "imagenet" takes torchvision's from this
            machine; a path is a state dict or checkpoint. A head of another size is drawn anew, and said so.
        freeze_backbone: only the head (the last linear layer) keeps requiring gradients.
        mean, std: of the first layer; None means those of the weights, else ImageNet's.
        image_size: side of the input, for a check of the output's shape; None checks nothing.
        progress: is told what was not taken from the weights.

    Raises `UnknownNameError` or `SettingsError`.
    """
    from limla.models import torchvision, user
    from limla.models import weights as files

    if num_classes < 1:
        raise SettingsError(f"{num_classes} classes: a model needs at least one")
    name = canonical_name(name)
    backbone: nn.Module
    if user.is_spec(name):
        backbone = user.build(name, num_classes)
    elif name == COMPACT:
        from limla.models.compact import compact

        backbone = compact(num_classes)
    else:
        backbone = torchvision.build(name, num_classes, image_size)
    weights_mean: Sequence[float] = IMAGENET_MEAN
    weights_std: Sequence[float] = IMAGENET_STD
    if str(weights) == IMAGENET:
        if user.is_spec(name) or name == COMPACT:
            raise SettingsError(f"model '{name}' has no ImageNet weights: choose --weights none or a file")
        path, weights_mean, weights_std = torchvision.imagenet_weights(name)
        files.load_into(backbone, path, num_classes, new_head=True, progress=progress)
    elif str(weights) != NO_WEIGHTS:
        recorded = files.load_into(backbone, Path(weights), num_classes, new_head=True, progress=progress)
        weights_mean, weights_std = recorded or (weights_mean, weights_std)
    model = with_normalisation(backbone, mean or weights_mean, std or weights_std)
    if freeze_backbone:
        freeze_all_but_head(model, num_classes)
    if image_size is not None:
        check_output(model, name, num_classes, (image_size, image_size))
    return model


def head_name(model: nn.Module, num_classes: int) -> str | None:
    """The dotted name of the last linear (or, failing that, convolution) layer with `num_classes` outputs."""
    layers = list(model.named_modules())
    for kind, width in ((nn.Linear, "out_features"), (nn.Conv2d, "out_channels")):
        for name, layer in reversed(layers):
            if isinstance(layer, kind) and getattr(layer, width) == num_classes:
                return name
    return None


def freeze_all_but_head(model: nn.Module, num_classes: int) -> str:
    """Let only the head require gradients; returns its name. Raises `SettingsError` when there is none."""
    name = head_name(model, num_classes)
    if name is None:
        raise SettingsError(
            f"a frozen backbone leaves nothing to train: the model has no linear layer with {num_classes} outputs"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in model.get_submodule(name).parameters():
        parameter.requires_grad_(True)
    return name


def check_output(model: nn.Module, name: str, num_classes: int, shape: tuple[int, int]) -> None:
    """Run one black image of (height, width) through the model in eval mode; it is left as it was.

    Raises `SettingsError` when that fails (an image too small) or the output is not (1, `num_classes`).
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters(), torch.zeros(0)).device
    try:
        with torch.no_grad():
            output = model(torch.zeros(1, 3, *shape, device=device))
    except FORWARD_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SettingsError(
            f"model '{name}' cannot take images of {shape[0]}x{shape[1]} pixels ({reason}): choose another image size"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(output, Tensor):
        raise SettingsError(
            f"model '{name}' returns a {type(output).__name__}: it must return (N, classes) logits"
        )
    if tuple(output.shape) != (1, num_classes):
        raise SettingsError(
            f"model '{name}' turns one image into {tuple(output.shape)}, but the data has {num_classes} classes: "
            f"its output must be (1, {num_classes})"
        )
