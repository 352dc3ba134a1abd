"""What is particular to the JPEG codec; what every codec must do is in tests/contracts."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import simplejpeg

from limla.codecs.base import MAX_PIXELS
from limla.codecs.jpeg import SUBSAMPLINGS, JpegCodec
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db
from limla.types import Image
from tests.catalogue import SHAPES
from tests.conftest import natural_like


def pillow_jpeg(image: Image, quality: int, subsampling: str = "420") -> bytes:
    """What Pillow makes of the same knobs."""
    file = io.BytesIO()
    number = {"444": 0, "422": 1, "420": 2}[subsampling]
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=number)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_the_files_subsampling_and_kind_are_the_recorded_ones(subsampling: str) -> None:
    data = JpegCodec(subsampling).encode(natural_like(64, 64), 50)
    assert simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", subsampling)
    assert data[:2] == b"\xff\xd8"
    assert b"\xff\xc0" in data  # SOF0: baseline, not progressive
    assert b"\xff\xc2" not in data


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [96, 98, 100])
def test_from_96_on_the_bytes_are_pillows(quality: int, subsampling: str) -> None:
    image = natural_like(120, 168, seed=1)
    assert JpegCodec(subsampling).encode(image, quality) == pillow_jpeg(image, quality, subsampling)


@pytest.mark.parametrize(
    ("quality", "most_db"), [(1, 0.05), (10, 0.05), (50, 0.1), (75, 0.2), (90, 0.7), (95, 1.5)]
)
def test_below_96_the_fast_dct_costs_a_known_bit(quality: int, most_db: float) -> None:
    """The trap held in place: TurboJPEG takes its fast DCT below 96 whatever it is told."""
    codec = JpegCodec()
    losses: list[float] = []
    lengths: list[float] = []
    for seed in range(4):
        image = natural_like(256, 320, seed)
        ours, theirs = codec.encode(image, quality), pillow_jpeg(image, quality)
        losses.append(psnr_db(image, codec.decode(theirs)) - psnr_db(image, codec.decode(ours)))
        lengths.append(len(ours) / len(theirs))
    assert -0.02 <= np.mean(losses) <= most_db, losses
    assert abs(np.mean(lengths) - 1) < 0.02, lengths
    # the quantisation tables are the same: only the transform differs
    with PIL.Image.open(io.BytesIO(ours)) as one, PIL.Image.open(io.BytesIO(theirs)) as other:
        assert one.quantization == other.quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("shape", SHAPES)
def test_decoded_pixels_are_pillows(subsampling: str, shape: tuple[int, int]) -> None:
    data = pillow_jpeg(natural_like(*shape, seed=2), 80, subsampling)
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert np.array_equal(JpegCodec().decode(data), np.asarray(picture.convert("RGB")))


def test_an_image_too_long_for_jpeg_is_refused() -> None:
    image = np.zeros((1, 65501, 3), np.uint8)
    with pytest.raises(SettingsError, match="65501 pixels is too long for JPEG: at most 65500"):
        JpegCodec().encode(image, 50)
    with pytest.raises(SettingsError, match="65501 pixels is too long for JPEG: at most 65500"):
        JpegCodec().encode_each(image, [50, 60])


def test_a_header_of_too_many_pixels_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(JpegCodec().encode(natural_like(16, 16), 50))
    place = data.index(b"\xff\xc0\x00\x11\x08") + 5
    data[place : place + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(
        DataError, match=f"65280 × 65280 pixels; an image has at least 1 and at most {MAX_PIXELS}"
    ):
        JpegCodec().decode(bytes(data))


def test_a_subsampling_without_a_name_is_a_data_error() -> None:
    """Damage, or a 4:1:1 picture that was turned: libjpeg-turbo has numbers that simplejpeg has no names for."""
    data = bytearray(JpegCodec().encode(natural_like(16, 16), 50))
    data[data.index(b"\xff\xc0\x00\x11\x08") + 11] = 0x14
    with pytest.raises(DataError, match="a chroma subsampling that simplejpeg does not know"):
        JpegCodec().decode(bytes(data))


def test_markers_of_scans_in_metadata_do_not_matter() -> None:
    """A large picture of one scan is read whatever its metadata hold."""
    image = np.full((2400, 2400, 3), 90, np.uint8)
    data = JpegCodec().encode(image, 50)
    note = b"\xff\xda" * 1000
    assert 2400 * 2400 * len(data) > 10**11
    noted = data[:2] + b"\xff\xee" + (2 + len(note)).to_bytes(2, "big") + note + data[2:]
    assert np.array_equal(JpegCodec().decode(noted), JpegCodec().decode(data))
