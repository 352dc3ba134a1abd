"""Short training runs, and ways to cut them off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limla.models.checkpoint import read_checkpoint
from limla.training import TrainSettings
from limla.types import Preprocessing


def asked(data_dir: Path, output_dir: Path, **changes: Any) -> TrainSettings:
    """Settings of a run of seconds."""
    settings: dict[str, Any] = {
        "data_dir": data_dir,
        "output_dir": output_dir,
        "model": "compact",
        "epochs": 3,
        "batch_size": 12,
        "preprocessing": Preprocessing(32, "none"),
        "loader": "cpu",
        "device": "cpu",
        "num_threads": 1,
    }
    return TrainSettings(**{**settings, **changes})


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint."""
    return read_checkpoint(path)[1]


def assert_equal_weights(one: Path, two: Path) -> None:
    """Equal bit for bit."""
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


class StopError(Exception):
    """What a function raises in place of a kill."""


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Make a function of the stage raise at its n-th call, as a kill there would end the process."""
    from limla.training import stage

    original, count = getattr(stage, name), 0

    def stopping(*arguments: Any, **extra: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise StopError
        return original(*arguments, **extra)

    monkeypatch.setattr(stage, name, stopping)
