"""State dicts from files. A file is data: nothing in it is ever run."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limla.errors import DataError, SettingsError
from limla.models.base import head_name
from limla.progress import SILENT, Progress

_NESTED = ("state_dict", "model_state_dict", "model", "net", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")
# torchvision's files hold the auxiliary classifiers and `transform` buffers that limla's models leave out
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "normalise.")
_SHOWN = 3

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""mean and std per channel, on the [0, 1] scale."""


def read_file(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU, if it is plain tensors and values.

    Raises `DataError` in one line for a missing or damaged file, and for one that holds Python objects: loading
    those would run code.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        _check_sums(path)
        with warnings.catch_warnings():
            # torch warns of pickle protocols newer than its own; what it cannot read it refuses by an error
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL\s+`?([\w.]+)", str(error))
        what = f"the Python object '{found[1]}'" if found else "something that is not plain tensors"
        raise DataError(
            f"{path}: refused, it holds {what}, and loading that could run code; "
            "save plain weights: torch.save(model.state_dict(), file)"
        ) from error
    except OSError as error:
        # torch seeks before the beginning of a file that was cut short
        if error.errno != errno.EINVAL:
            raise
        raise DataError(f"{path}: damaged, cut short or not a file of torch.save") from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(f"{path}: damaged, or not a file of torch.save ({type(error).__name__})") from error


def _check_sums(path: Path) -> None:
    """Raise `DataError` when a record's checksum is wrong: torch itself reads flipped bits as weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise DataError(
            f"{path}: damaged, the checksum of its record '{damaged}' is wrong; copy or train it again"
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, plain or under "state_dict", "model" …, prefixes still on.

    Raises `DataError` when there is none.
    """
    content = read_file(path)
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise DataError(
            f"{path}: holds a {type(content).__name__}, not a state dict: torch.save(model.state_dict(), …)"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise DataError(
                f"{path}: not a state dict: '{key}' is a {type(value).__name__}, not a tensor; "
                f"a state dict may also lie under one of {', '.join(_NESTED)}"
            )
    return {str(key): value for key, value in content.items()}


def load_into(
    backbone: nn.Module,
    path: Path,
    num_classes: int,
    new_head: bool = False,
    progress: Progress = SILENT,
) -> Normalisation | None:
    """Fill a model (without its normalisation layer) from a file.

    Args:
        backbone: changed in place.
        path: a plain state dict, also nested or with `module.` prefixes, or a limla checkpoint.
        num_classes: outputs of `backbone`, to find its head.
        new_head: a head of another size is left as it was drawn, and `progress` is told so; otherwise it is
            an error like any other shape that differs.

    Returns (mean, std) of the first layer when the file holds a whole limla model, else None.

    Raises `DataError` for an unreadable file and `SettingsError` naming the first keys that do not fit.
    """
    expected = backbone.state_dict()
    whole = read_state_dict(path)
    state = _strip(whole, set(expected))
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if new_head and wrong:
        head = head_name(backbone, num_classes)
        of_head = {f"{head}.weight", f"{head}.bias"} & set(expected)
        if wrong and set(wrong) <= of_head:
            there = state[wrong[0]].shape[0]
            progress.say(
                f"{path.name}: its last layer is for {there} classes; a new one for {num_classes} is drawn"
            )
            state = {**state, **{key: expected[key] for key in of_head}}
            wrong = []
    problems = [
        ("missing", [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]),
        ("unexpected", [key for key in state if key not in expected]),
        (
            "of another shape",
            [f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}" for key in wrong],
        ),
    ]
    if any(keys for _, keys in problems):
        told = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems if keys)
        raise SettingsError(f"{path}: not weights of this model ({told})")
    # counters of batch norm are absent from old files
    backbone.load_state_dict({**{key: expected[key] for key in expected if key not in state}, **state})
    return _normalisation(whole)


def _normalisation(state: dict[str, Tensor]) -> Normalisation | None:
    """(mean, std) in the state dict of a whole limla model: `Normalise`, then the backbone, and nothing else."""
    mean, std = state.get("normalise.mean"), state.get("normalise.std")
    if mean is None or std is None or not all(key.startswith(("normalise.", "backbone.")) for key in state):
        return None
    return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())


def _strip(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Remove prefixes that every key carries, and what a model without auxiliary classifiers does not have."""
    while not expected & set(state):
        own = {key: value for key, value in state.items() if not key.startswith("normalise.")}
        prefix = next((p for p in _PREFIXES if own and all(key.startswith(p) for key in own)), None)
        if prefix is None:
            break
        state = {key[len(prefix) :]: value for key, value in own.items()}
    return {key: value for key, value in state.items() if key in expected or not key.startswith(_AUXILIARY)}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (" …" if len(keys) > _SHOWN else "")
