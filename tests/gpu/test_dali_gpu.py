"""DALI on a GPU: the same samples, pixels within the GPU decoder's own tolerance, tensors on the device.

The GPU decodes JPEG by another inverse DCT and chroma upsampling than libjpeg-turbo, so its pixels are close
to the CPU's, not equal: the decoder is part of every condition. Needs torch with CUDA and `nvidia.dali`.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("nvidia.dali", reason="DALI is not installed")

import torch

from limla.loaders.base import LoaderSettings, open_loader
from limla.types import Batch, Preprocessing
from tests.variants import member, write_variant

pytestmark = pytest.mark.gpu

MEAN_TOLERANCE = 1.0 / 255
"""Mean absolute difference GPU − CPU over an image. A bound to start from, until it is measured on a GPU."""
MAX_TOLERANCE = 48.0 / 255
"""Largest difference of one value: chroma edges at 4:2:0 after the resize. To be measured likewise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    extensions = ("jpg", "jpg", "png", "jpg", "webp", "tif", "bmp")
    samples = [
        member(number, 200 + 7 * number, 260 - 5 * number, extensions[number % len(extensions)])
        for number in range(23)
    ]
    shards = [samples[:9], samples[9:10], samples[10:]]
    return write_variant(tmp_path_factory.mktemp("gpu") / "source", {"test": shards, "train": shards}).folder


def load(name: str, folder: Path, **changes: object) -> list[Batch]:
    settings = LoaderSettings(**{"batch_size": 8, "num_threads": 2, **changes})
    split = "train" if settings.training else "test"
    with closing(open_loader(name, [folder], split, settings)) as loader:
        return list(loader)


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_auto_is_dali_on_the_gpu(folder: Path) -> None:
    with closing(open_loader("auto", [folder], "test", LoaderSettings(device="cuda"))) as loader:
        assert loader.decoder == "dali-gpu"


@pytest.mark.parametrize("batch_size", [1, 8, 23, 64])
def test_each_sample_comes_once_on_the_device(folder: Path, batch_size: int) -> None:
    batches = load("dali", folder, device="cuda", batch_size=batch_size)
    assert keys(batches) == keys(load("cpu", folder))
    for batch in batches:
        assert batch.images.is_cuda
        assert batch.labels.is_cuda
        assert batch.images.shape == (len(batch.keys), 3, 224, 224)
        assert batch.images.dtype == torch.float32
        assert 0 <= batch.images.min() < batch.images.max() <= 1


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(image_size=224),
        Preprocessing(image_size=64),
        Preprocessing(image_size=64, resize_shorter=64),
    ],
    ids=Preprocessing.describe,
)
def test_gpu_pixels_are_near_the_cpus(folder: Path, preprocessing: Preprocessing, record_property) -> None:
    gpu = torch.cat(
        [batch.images.cpu() for batch in load("dali", folder, device="cuda", preprocessing=preprocessing)]
    )
    cpu = torch.cat([batch.images for batch in load("cpu", folder, preprocessing=preprocessing)])
    difference = (gpu - cpu).abs()
    record_property("mean_difference_levels", 255 * float(difference.mean()))
    record_property("max_difference_levels", 255 * float(difference.max()))
    assert difference.mean(dim=(1, 2, 3)).max() <= MEAN_TOLERANCE
    assert difference.max() <= MAX_TOLERANCE


def test_two_passes_are_equal_and_batches_stay_valid(folder: Path) -> None:
    settings = LoaderSettings(batch_size=8, num_threads=2, device="cuda")
    with closing(open_loader("dali", [folder], "test", settings)) as loader:
        first = list(loader)
        copies = [batch.images.clone() for batch in first]
        for batch in loader:
            del batch
            break
        second = list(loader)
    for one, copy, two in zip(first, copies, second, strict=True):
        assert torch.equal(one.images, copy)
        assert torch.equal(one.images, two.images)


def test_training_has_the_cpu_loaders_order_and_crops(folder: Path) -> None:
    gpu = load("dali", folder, device="cuda", training=True, augment=True)
    cpu = load("cpu", folder, training=True, augment=True)
    assert keys(gpu) == keys(cpu)
    difference = torch.cat([a.images.cpu() - b.images for a, b in zip(gpu, cpu, strict=True)]).abs()
    assert difference[..., 3:-3, 3:-3].mean() <= MEAN_TOLERANCE


def test_images_at_their_own_size(tmp_path: Path) -> None:
    equal = [member(number, 32, 48) for number in range(5)]
    folder = write_variant(tmp_path / "source", {"test": [equal], "train": [equal]}).folder
    own = Preprocessing(resize="none")
    for changes in ({}, {"training": True, "augment": True}):
        batches = load("dali", folder, device="cuda", preprocessing=own, batch_size=3, **changes)
        assert [tuple(batch.images.shape) for batch in batches] == [(3, 3, 32, 48), (2, 3, 32, 48)]
        assert all(batch.images.is_cuda for batch in batches)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_hardware_and_cuda_decoders_are_near_the_cpus(share: float, tmp_path: Path, record_property) -> None:
    """JPEGs only, at their own size: decoding alone, by the hardware decoder (where there is one), CUDA, or both."""
    from limla.loaders.dali import DaliLoader
    from limla.loaders.source import open_source

    samples = [member(number, 240, 320) for number in range(16)]
    folder = write_variant(tmp_path / "source", {"test": [samples]}).folder
    settings = LoaderSettings(Preprocessing(resize="none"), batch_size=8, device="cuda")
    with closing(DaliLoader(open_source([folder], "test"), settings, share)) as loader:
        assert loader.decoder == f"dali-gpu-hw{share:g}", "another share is another condition"
        gpu = torch.cat([batch.images.cpu() for batch in loader])
    cpu = torch.cat([batch.images for batch in load("cpu", folder, preprocessing=settings.preprocessing)])
    difference = (gpu - cpu).abs()
    record_property("mean_difference_levels", 255 * float(difference.mean()))
    record_property("max_difference_levels", 255 * float(difference.max()))
    assert difference.mean(dim=(1, 2, 3)).max() <= MEAN_TOLERANCE
    assert difference.max() <= MAX_TOLERANCE


def test_batches_survive_later_ones_while_the_gpu_is_busy(folder: Path) -> None:
    """torch takes DALI's memory as it is: it must not be used again while a batch, or work on it, lives."""
    settings = LoaderSettings(batch_size=4, device="cuda")
    with closing(open_loader("dali", [folder], "test", settings)) as loader:
        expected = [batch.images.clone().cpu() for batch in loader]
        sums = []
        kept = []
        for batch in loader:
            weights = torch.rand(1024, 1024, device="cuda")
            for _ in range(20):  # the stream lags behind the loader
                weights = weights @ weights / 512
            sums.append(batch.images.sum(dim=(1, 2, 3)) + 0 * weights[0, 0])
            kept.append(batch.images)
            del batch
        torch.cuda.synchronize()
    for images, total, before in zip(kept, sums, expected, strict=True):
        assert torch.equal(images.cpu(), before)
        assert torch.allclose(total.cpu(), before.sum(dim=(1, 2, 3)), rtol=1e-4)
