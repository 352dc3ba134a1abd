"""The cpu loader reads as other pipelines do, when asked: fast decoding, bilinear without antialiasing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import build_codec
from limla.codecs.jpeg import decode_jpeg
from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.geometry import crop_start, resized_shape
from limla.loaders.resizing import center_planes
from limla.loaders.simulation import open_simulation
from limla.types import Image, Preprocessing, Reading
from tests.conftest import natural_like
from tests.variants import encode, member, write_variant

PREPROCESSING = Preprocessing(image_size=20, resize_shorter=24)


def two_taps(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    """torch's bilinear without antialiasing, then the centre crop: (3, S, S) levels, not rounded."""
    shape = resized_shape(*image.shape[:2], preprocessing.resize_shorter)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(pixels, size=shape, mode="bilinear", align_corners=False)[0]
    top, left = (crop_start(length, preprocessing.image_size) for length in shape)
    side = preprocessing.image_size
    return resized[:, top : top + side, left : left + side].numpy()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 60), st.integers(0, 20))
def test_without_antialiasing_each_pixel_comes_from_two_by_two(
    height: int, width: int, side: int, margin: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocessing = Preprocessing(image_size=side, resize_shorter=side + margin)
    planes = np.full((3, side, side), np.nan, np.float32)
    center_planes(image, preprocessing, planes, antialias=False)
    # rows and columns are each rounded to whole levels
    assert np.abs(planes * 255 - two_taps(image, preprocessing)).max() <= 1.01


def test_enlarging_has_nothing_to_antialias() -> None:
    image = natural_like(15, 17)
    planes = [np.empty((3, 20, 20), np.float32) for _ in range(2)]
    for antialias in (False, True):
        center_planes(image, PREPROCESSING, planes[antialias], antialias=antialias)
    assert np.array_equal(*planes)


def test_fast_decoding_is_libjpeg_turbos() -> None:
    data = encode(natural_like(61, 47))
    fast = decode_jpeg(data, fast=True)
    assert np.array_equal(fast, simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True))
    usual = decode_jpeg(data).astype(int)
    assert np.abs(usual - fast).max() > 0
    assert np.abs(usual - fast).mean() < 4


@pytest.mark.parametrize(
    "reading", [Reading(), Reading("fast"), Reading("fast", False), Reading("accurate", False)]
)
def test_the_loader_reads_as_it_is_told_and_says_so(tmp_path: Path, reading: Reading) -> None:
    members = [
        member(number, 60 + number, 75, extension) for number, extension in enumerate(["jpg", "png", "jpg"])
    ]
    folder = write_variant(tmp_path / "things" / "source", {"test": [members]}).folder
    loader = open_loader("cpu", [folder], "test", LoaderSettings(PREPROCESSING, reading=reading))
    assert loader.decoder == ("cpu" if reading.decoding == "accurate" else "cpu-fast")
    (batch,) = loader
    for image, one in zip(batch.images.numpy(), members, strict=True):
        if one.extension == "jpg":
            decoded = decode_jpeg(one.data, fast=reading.decoding == "fast")
        else:
            decoded = natural_like(one.height, one.width, seed=int(one.key[-3:]))
        planes = np.empty((3, 20, 20), np.float32)
        center_planes(decoded, PREPROCESSING, planes, antialias=reading.antialias)
        assert np.array_equal(image, planes)
    loader.close()


def test_only_the_cpu_loader_and_only_in_evaluation(tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "things" / "source", {"test": [[member(0, 30, 30)]]}).folder
    other = LoaderSettings(PREPROCESSING, reading=Reading("fast"), device="cuda:0")
    for name in ("dali", "webdataset"):
        with pytest.raises(SettingsError, match=f"loader '{name}' has no other decoder .* choose cpu"):
            open_loader(name, [folder], "test", other)
    loader = open_loader("auto", [folder], "test", other)
    assert loader.decoder == "cpu-fast", "on a GPU too"
    loader.close()
    with pytest.raises(SettingsError, match="evaluation only"):
        LoaderSettings(training=True, reading=Reading(antialias=False))
    with pytest.raises(SettingsError, match="use shards for another reading"):
        open_simulation("cpu", folder, "test", other, build_codec("jpeg"), (10,))
    with pytest.raises(SettingsError, match="decoding 'slow' is unknown: choose accurate or fast"):
        Reading("slow")  # type: ignore[arg-type]
