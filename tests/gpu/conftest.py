"""What the GPU tests share: shards of photo-like JPEGs, and a trained-looking checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from limla.models.base import ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.types import Preprocessing
from tests.variants import CLASS_NAMES, member, write_variant

SIDE = 64
"""Of the models' input."""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of JPEGs of differing sizes: 40 to train on, 8 for validation, 23 to test on, in two shards each."""
    data_dir = tmp_path_factory.mktemp("gpu") / "things"
    numbers = iter(range(1000))

    def samples(count: int) -> list:
        return [
            member(n, 150 + 7 * (n % 20), 260 - 5 * (n % 20)) for n in (next(numbers) for _ in range(count))
        ]

    splits = {"train": [samples(25), samples(15)], "val": [samples(8)], "test": [samples(10), samples(13)]}
    write_variant(data_dir / "source", splits)
    return data_dir


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact network with logits that differ between images, for inputs of `SIDE` pixels."""
    torch.manual_seed(0)
    model = build_model("compact", len(CLASS_NAMES))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(5)
    path = tmp_path_factory.mktemp("model") / "best.pt"
    save_checkpoint(
        path, model.eval(), ModelInfo("compact", len(CLASS_NAMES), CLASS_NAMES, Preprocessing(SIDE))
    )
    return path
