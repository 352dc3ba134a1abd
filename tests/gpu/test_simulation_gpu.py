"""Qualities simulated by DALI on a GPU: the loader's originals, every quality on the device, the same in every pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("nvidia.dali", reason="DALI is not installed")

import torch

from limla.codecs.jpeg import JpegCodec
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.simulation import open_simulation
from limla.types import Batch, Preprocessing

pytestmark = pytest.mark.gpu

QUALITIES = (None, 5, 50, 95)
LOWEST_PSNR_DB = 25.0
"""Of the model's inputs against the real codec on the CPU. A bound to start from, until it is measured on a GPU."""


def load(name: str, shards: Path, device: str) -> list[tuple[Batch, ...]]:
    settings = LoaderSettings(Preprocessing(64), batch_size=8, device=device)
    source = shards / "source"
    with closing(open_simulation(name, source, "test", settings, JpegCodec(), QUALITIES)) as simulation:
        first = list(simulation)
        for batches, again in zip(first, simulation, strict=True):
            for one, other in zip(batches, again, strict=True):
                assert torch.equal(one.images, other.images)
        return first


def test_every_quality_is_on_the_device_and_near_the_codec(
    shards: Path, record_property: Callable[[str, object], None]
) -> None:
    on_gpu, real = load("dali", shards, "cuda"), load("cpu", shards, "cpu")
    lowest = {quality: float("inf") for quality in QUALITIES}
    for batches, others in zip(on_gpu, real, strict=True):
        for quality, batch, other in zip(QUALITIES, batches, others, strict=True):
            assert batch.images.is_cuda
            assert batch.keys == other.keys
            squares = (batch.images.cpu() - other.images).square().mean(dim=(1, 2, 3))
            lowest[quality] = min(lowest[quality], float(-10 * torch.log10(squares.max())))
    record_property("lowest PSNR, dB, by quality", str(lowest))
    assert min(lowest.values()) > LOWEST_PSNR_DB


def test_the_originals_are_the_loaders(shards: Path) -> None:
    settings = LoaderSettings(Preprocessing(64), batch_size=8, device="cuda")
    with closing(open_loader("dali", [shards / "source"], "test", settings)) as loader:
        for batch, batches in zip(loader, load("dali", shards, "cuda"), strict=True):
            assert torch.equal(batch.images, batches[0].images)
