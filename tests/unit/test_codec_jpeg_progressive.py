"""What is particular to progressive JPEG; what every codec must do is in tests/contracts."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import simplejpeg

from limla.codecs.jpeg import SUBSAMPLINGS, JpegCodec
from limla.codecs.jpeg_progressive import ProgressiveJpegCodec
from limla.errors import DataError, SettingsError
from limla.types import Image
from tests.catalogue import SHAPES
from tests.conftest import natural_like


def pillow_pixels(data: bytes) -> Image:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_the_files_subsampling_and_kind_are_the_recorded_ones(subsampling: str) -> None:
    codec = ProgressiveJpegCodec(subsampling)
    data = codec.encode(natural_like(64, 64), 50)
    assert simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", subsampling)
    assert b"\xff\xc2" in data  # SOF2: progressive
    assert b"\xff\xc0" not in data
    assert data.count(b"\xff\xda") == 10  # libjpeg's scans
    assert codec.settings()["subsampling"] == subsampling


def test_an_unknown_subsampling_or_a_side_too_long_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown chroma subsampling '411'; known: 420, 422, 444"):
        ProgressiveJpegCodec("411")
    with pytest.raises(SettingsError, match="65501 pixels is too long for JPEG: at most 65500"):
        ProgressiveJpegCodec().encode(np.zeros((1, 65501, 3), np.uint8), 50)


@pytest.mark.parametrize("quality", [96, 100])
def test_it_is_another_order_of_the_same_coefficients(quality: int) -> None:
    """From 96 on, where the jpeg codec has the accurate DCT too, the pixels are equal and the file is shorter."""
    image = natural_like(90, 130, seed=1)
    baseline, progressive = (codec.encode(image, quality) for codec in (JpegCodec(), ProgressiveJpegCodec()))
    assert np.array_equal(JpegCodec().decode(baseline), ProgressiveJpegCodec().decode(progressive))
    assert len(progressive) < len(baseline)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoded_pixels_are_pillows(subsampling: str, shape: tuple[int, int]) -> None:
    codec = ProgressiveJpegCodec(subsampling)
    data = codec.encode(natural_like(*shape, seed=2), 80)
    assert np.array_equal(codec.decode(data), pillow_pixels(data))


@pytest.mark.parametrize("shape", [(300, 400), (1, 9000), (9000, 1)])
@pytest.mark.parametrize("subsampling", ["420", "444"])
def test_noise_that_needs_a_longer_buffer_than_pillow_guesses(subsampling: str, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (*shape, 3)).astype(np.uint8) * 255
    before = PIL.ImageFile.MAXBLOCK
    codec = ProgressiveJpegCodec(subsampling)
    for quality in (90, 94, 100):
        data = codec.encode(noise, quality)
        assert np.array_equal(codec.decode(data), pillow_pixels(data))
    assert before == PIL.ImageFile.MAXBLOCK
    with pytest.raises(SettingsError):
        codec.encode(noise, 101)
    assert before == PIL.ImageFile.MAXBLOCK


def test_so_many_scans_that_they_would_take_hours_are_refused() -> None:
    data = ProgressiveJpegCodec().encode(np.full((2400, 2400, 3), 90, np.uint8), 50)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert len(last) < 100
    with pytest.raises(DataError, match="it has more than 500 scans"):
        ProgressiveJpegCodec().decode(data[:-2] + 600 * last + b"\xff\xd9")
    filled = data.replace(
        b"\xff\xc2", b"\xff\xff\xc2", 1
    )  # a fill byte before a marker, as the standard allows
    assert np.array_equal(ProgressiveJpegCodec().decode(filled), ProgressiveJpegCodec().decode(data))
    with pytest.raises(DataError, match="it has more than 500 scans"):
        ProgressiveJpegCodec().decode(filled[:-2] + 600 * last + b"\xff\xd9")
