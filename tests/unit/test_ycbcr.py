"""JPEG at several qualities from one set of planes: the bytes are those of encoding the RGB image each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import jpeg, ycbcr
from limla.codecs.jpeg import SUBSAMPLINGS, JpegCodec
from limla.types import Image
from tests.conftest import natural_like

ALL = range(1, 101)


def from_rgb(image: Image, quality: int, subsampling: str) -> bytes:
    """simplejpeg's own way from pixels."""
    return simplejpeg.encode_jpeg(image, quality, "RGB", subsampling, fastdct=False)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_the_installed_library_takes_planes(subsampling: str) -> None:
    assert jpeg._takes_planes(subsampling)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_each_size_up_to_two_blocks_of_chroma_and_a_bit_has_the_bytes_of_rgb(subsampling: str) -> None:
    whole = natural_like(35, 35, seed=11)
    for height in range(1, 36):
        for width in range(1, 36):
            image = whole[:height, :width].copy()
            expected = [from_rgb(image, quality, subsampling) for quality in (5, 60, ycbcr.MAX_QUALITY)]
            assert JpegCodec(subsampling).encode_each(image, (5, 60, ycbcr.MAX_QUALITY)) == expected, (
                image.shape
            )


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 66), width=st.integers(1, 66), kind=st.sampled_from(["photo", "noise", "black and white"]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_size_and_every_quality_has_the_bytes_of_rgb(
    subsampling: str, height: int, width: int, kind: str, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    if kind == "photo":
        image = natural_like(height, width, seed)
    elif kind == "noise":
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        image = generator.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    found = JpegCodec(subsampling).encode_each(image, ALL)
    assert found == [from_rgb(image, quality, subsampling) for quality in ALL]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (375, 500), (500, 375), (333, 500), (1200, 1607)])
def test_photos_sizes_have_the_bytes_of_rgb(subsampling: str, shape: tuple[int, int]) -> None:
    image = natural_like(*shape, seed=3)
    steps = (1, 10, 50, 75, 90, 93, 94, 100)
    assert JpegCodec(subsampling).encode_each(image, steps) == [from_rgb(image, q, subsampling) for q in steps]


def test_real_photos_have_the_bytes_of_rgb(flowers: Path) -> None:
    paths = sorted(flowers.rglob("*.jpg"))[::23]
    assert paths
    for path in paths:
        image = jpeg.decode_jpeg(path.read_bytes())
        for subsampling in SUBSAMPLINGS:
            steps = (1, 5, 10, 20, 50, 75, 90)
            expected = [from_rgb(image, quality, subsampling) for quality in steps]
            assert JpegCodec(subsampling).encode_each(image, steps) == expected, path.name


@pytest.mark.parametrize("subsampling", ["420", "422"])
def test_a_dithered_block_of_any_sum_has_no_detail(subsampling: str) -> None:
    """The 64 blocks of one level and the next: the last block of a width of 8 is the library's own in RGB."""
    across, down = SUBSAMPLINGS[subsampling]
    for number in range(64):
        image = np.full((8, 8, 3), 100, np.uint8)
        image.reshape(64, 3)[:number] = 101  # gray, so luma is these numbers
        planes = ycbcr.to_planes(image, across, down)
        assert planes.y[:, 8:].sum() == planes.y[:, :8].sum() == 64 * 100 + number
        for quality in range(1, ycbcr.MAX_QUALITY + 1):
            expected = from_rgb(image, quality, subsampling)
            assert jpeg._encode_planes(planes, 8, 8, quality) == expected, (number, quality)


def test_beyond_the_highest_shared_quality_planes_would_differ() -> None:
    """So `MAX_QUALITY` is not lower than it must be, and the way through RGB is taken above it."""
    differing = 0
    for seed in range(20):
        image = natural_like(64, 40, seed)
        planes = ycbcr.to_planes(image, 2, 2)
        quality = ycbcr.MAX_QUALITY + 1
        differing += jpeg._encode_planes(planes, 64, 40, quality) != from_rgb(image, quality, "420")
    assert differing


def test_a_library_that_computes_otherwise_is_given_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    image = natural_like(30, 40)
    expected = [from_rgb(image, quality, "420") for quality in (10, 50)]

    def other(*planes: Image, quality: int, fastdct: bool) -> bytes:
        return simplejpeg_encode(*(plane ^ 1 for plane in planes), quality=quality, fastdct=fastdct)

    simplejpeg_encode = simplejpeg.encode_jpeg_yuv_planes
    monkeypatch.setattr(simplejpeg, "encode_jpeg_yuv_planes", other)
    jpeg._takes_planes.cache_clear()
    try:
        assert JpegCodec().encode_each(image, (10, 50)) == expected
        assert not jpeg._takes_planes("420")
    finally:
        jpeg._takes_planes.cache_clear()


def test_a_side_that_cannot_be_padded_goes_through_rgb() -> None:
    image = np.zeros((3, 65497, 3), np.uint8)
    image[1, ::7] = 200
    assert JpegCodec().encode_each(image, (20, 50)) == [from_rgb(image, quality, "420") for quality in (20, 50)]
