"""The CPU paths agree: bit for bit on decoded pixels; after the resize within one 8-bit step and 50 dB for DALI,
bit for bit for Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from limla.loaders.base import LoaderSettings, open_loader
from limla.shard_reader import ShardReader
from limla.types import Image, Preprocessing
from tests.conftest import natural_like
from tests.variants import Member, write_variant

STEP = 1 / 255
SIZES = (
    (375, 500),
    (500, 375),
    (333, 500),
    (257, 255),
    (100, 131),
    (600, 97),
    (64, 64),
    (31, 900),
    (7, 9),
    (1, 40),
    (40, 1),
    (1, 1),
)
CROPS = (
    Preprocessing(image_size=224),
    Preprocessing(image_size=32),
    Preprocessing(image_size=61, resize_shorter=64),
    Preprocessing(image_size=64, resize_shorter=64),
    Preprocessing(image_size=48, resize_shorter=49),
    Preprocessing(image_size=96, resize_shorter=150),
)


def as_file(image: Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def gray(height: int, width: int, kind: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(natural_like(height, width, 5)).convert("L").save(file, kind)
    return file.getvalue()


FORMATS: dict[str, tuple[str, Callable[[int, int], bytes]]] = {
    "jpeg-420": ("jpg", lambda h, w: as_file(natural_like(h, w, 1), "JPEG", subsampling=2, quality=75)),
    "jpeg-422": ("jpg", lambda h, w: as_file(natural_like(h, w, 2), "JPEG", subsampling=1, quality=40)),
    "jpeg-444": ("jpg", lambda h, w: as_file(natural_like(h, w, 3), "JPEG", subsampling=0, quality=97)),
    "jpeg-progressive": ("jpg", lambda h, w: as_file(natural_like(h, w, 4), "JPEG", progressive=True)),
    "jpeg-quality-1": ("jpg", lambda h, w: as_file(natural_like(h, w, 4), "JPEG", quality=1)),
    "jpeg-gray": ("jpg", lambda h, w: gray(h, w, "JPEG")),
    "png": ("png", lambda h, w: as_file(natural_like(h, w, 6), "PNG")),
    "png-gray": ("png", lambda h, w: gray(h, w, "PNG")),
    "bmp": ("bmp", lambda h, w: as_file(natural_like(h, w, 7), "BMP")),
    "tif": ("tif", lambda h, w: as_file(natural_like(h, w, 8), "TIFF")),
    "tif-lzw": ("tif", lambda h, w: as_file(natural_like(h, w, 8), "TIFF", compression="tiff_lzw")),
    "webp": ("webp", lambda h, w: as_file(natural_like(h, w, 9), "WEBP", quality=70)),
    "webp-lossless": ("webp", lambda h, w: as_file(natural_like(h, w, 10), "WEBP", lossless=True)),
}


def load(name: str, folder: Path, preprocessing: Preprocessing, **settings: object) -> list[torch.Tensor]:
    options = LoaderSettings(preprocessing=preprocessing, batch_size=5, num_threads=1, **settings)
    with closing(open_loader(name, [folder], "test", options)) as loader:
        return [image for batch in loader for image in batch.images]


def sample(number: int, data: bytes, extension: str, height: int, width: int) -> Member:
    return Member(f"s{number:03d}", data, extension, b"0", height, width)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(61, 83), (33, 1), (8, 200)])
def test_decoded_pixels_agree_bit_for_bit(kind: str, height: int, width: int, tmp_path: Path) -> None:
    extension, make = FORMATS[kind]
    data = make(height, width)
    folder = write_variant(tmp_path / "source", {"test": [[sample(0, data, extension, height, width)]]}).folder
    pixels = np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    own = Preprocessing(resize="none")
    assert torch.equal(load("cpu", folder, own)[0], expected)
    assert torch.equal((load("dali", folder, own)[0] * 255).round(), (expected * 255).round())
    assert torch.allclose(load("dali", folder, own)[0], expected, rtol=2e-7, atol=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [
        sample(number, as_file(natural_like(height, width, number), "PNG"), "png", height, width)
        for number, (height, width) in enumerate(SIZES)
    ]
    return write_variant(tmp_path_factory.mktemp("sizes") / "source", {"test": [samples]}).folder


@pytest.mark.parametrize("preprocessing", CROPS, ids=Preprocessing.describe)
def test_the_cpu_loader_is_torchvision_on_pillow_images(photos: Path, preprocessing: Preprocessing) -> None:
    """Bit for bit; Pillow 13 turns the order of its passes round for images over twice as tall as wide."""
    images, others = load("cpu", photos, preprocessing), load("webdataset", photos, preprocessing)
    for image, second, (height, width) in zip(images, others, SIZES, strict=True):
        if height <= 2 * width:
            # torchvision multiplies by 1/255 where this divides by 255
            assert torch.equal((255 * image).round(), (255 * second).round()), (height, width)
            assert torch.allclose(image, second, rtol=2e-7, atol=0)


@pytest.mark.parametrize("preprocessing", CROPS, ids=Preprocessing.describe)
@pytest.mark.parametrize("other", ["dali", "webdataset"])
def test_resized_images_agree(photos: Path, preprocessing: Preprocessing, other: str) -> None:
    images, others = load("cpu", photos, preprocessing), load(other, photos, preprocessing)
    for image, second, size in zip(images, others, SIZES, strict=True):
        assert_close(image, second, f"{size}")


def test_dali_training_without_augmentation_is_the_cpu_loaders(photos: Path) -> None:
    settings = LoaderSettings(preprocessing=CROPS[1], batch_size=5, num_threads=1, training=True)
    by_key = []
    for name in ("cpu", "dali"):
        with closing(open_loader(name, [photos], "test", settings)) as loader:
            by_key.append([(batch.keys, batch.images) for batch in loader])
    for (keys, images), (other_keys, others) in zip(*by_key, strict=True):
        assert keys == other_keys
        assert_close(images, others, str(keys))


def test_dali_makes_the_cpu_loaders_augmentation(photos: Path) -> None:
    """Same order, same crops, same mirror; only the outermost pixels of a crop may see beyond it."""
    settings = LoaderSettings(preprocessing=CROPS[0], batch_size=5, num_threads=1, training=True, augment=True)
    passes = []
    for name in ("cpu", "dali"):
        with closing(open_loader(name, [photos], "test", settings)) as loader:
            loader.set_epoch(3)
            passes.append(
                [(key, image) for batch in loader for key, image in zip(batch.keys, batch.images, strict=True)]
            )
    for (key, image), (other_key, other) in zip(*passes, strict=True):
        assert key == other_key
        inner = (slice(None), slice(3, -3), slice(3, -3))
        if min(SIZES[int(key[1:])]) > 100:
            assert_close(image[inner], other[inner], key)


def assert_close(image: torch.Tensor, other: torch.Tensor, what: str) -> None:
    difference = (image - other).abs()
    assert difference.max() <= STEP * 1.001, what
    assert difference.double().square().mean() <= 1e-5, what  # 50 dB


def test_real_photos_agree(flowers: Path, tmp_path: Path) -> None:
    samples = []
    for number, path in enumerate(sorted(flowers.rglob("*.jpg"))[::40]):
        with PIL.Image.open(path) as picture:
            width, height = picture.size
        samples.append(sample(number, path.read_bytes(), "jpg", height, width))
    folder = write_variant(tmp_path / "source", {"test": [samples]}).folder
    with ShardReader(folder / "test-000000.tar") as reader:
        assert len(reader) == len(samples) >= 10
    for preprocessing in (CROPS[0], CROPS[3]):
        images = load("cpu", folder, preprocessing)
        for other in ("dali", "webdataset"):
            for image, second, member in zip(images, load(other, folder, preprocessing), samples, strict=True):
                assert_close(image, second, f"{other} {member.key}")
