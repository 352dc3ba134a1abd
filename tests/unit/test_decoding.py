"""Members of a shard → pixels, for every format that can stand in one."""

from __future__ import annotations

import io
import warnings

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs.decoding import decode_image
from limla.errors import DataError
from limla.types import Image
from tests.catalogue import decodes_or_data_error
from tests.conftest import natural_like

FORMATS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}


def encoded(extension: str, image: Image, mode: str = "RGB") -> bytes:
    """`image` in a shard's format, lossless where that can be."""
    file = io.BytesIO()
    options = {"webp": {"lossless": True}, "jpg": {"quality": 90}}.get(extension, {})
    PIL.Image.fromarray(image).convert(mode).save(file, FORMATS[extension], **options)
    return file.getvalue()


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp"])
def test_lossless_members_decode_to_their_pixels(extension: str) -> None:
    image = natural_like(21, 34, seed=3)
    data = encoded(extension, image)
    for kind in (data, memoryview(data)):
        assert np.array_equal(decode_image(kind, extension), image)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "tif"])
def test_gray_members_are_repeated(extension: str) -> None:
    decoded = decode_image(encoded(extension, natural_like(21, 34), "L"), extension)
    assert decoded.shape == (21, 34, 3)
    assert np.ptp(decoded, axis=2).max() == 0


def test_gray_of_more_than_8_bits_is_scaled_or_refused() -> None:
    values = np.array([[0, 256, 1000, 32768, 65535]], np.uint16)
    for kind in (values, values.astype(np.int32)):
        file = io.BytesIO()
        PIL.Image.fromarray(kind).save(file, "TIFF")
        assert decode_image(file.getvalue(), "tif")[0, :, 0].tolist() == [0, 1, 4, 128, 255]
    file = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.int32) + 1).save(file, "TIFF")
    with pytest.raises(DataError, match="no defined range"):
        decode_image(file.getvalue(), "tif")


def test_what_pillow_warns_of_is_an_image_or_a_data_error_where_warnings_are_errors() -> None:
    data = bytearray(encoded("tif", natural_like(20, 28)))
    start = int.from_bytes(data[4:8], "little")
    data[start : start + 2] = (60000).to_bytes(2, "little")  # tags
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decodes_or_data_error(lambda whole: decode_image(whole, "tif"), bytes(data))
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="not a decodable TIFF image"):
            decode_image(bytes(data), "tif")


@pytest.mark.parametrize("extension", FORMATS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    length=st.floats(0, 1),
)
def test_mutated_members_decode_or_are_data_errors(
    extension: str, changes: list[tuple[float, int]], length: float
) -> None:
    data = bytearray(encoded(extension, natural_like(20, 28, seed=4)))
    for place, value in changes:
        data[int(place * len(data))] = value
    decodes_or_data_error(lambda whole: decode_image(whole, extension), bytes(data[: int(length * len(data))]))


def test_a_member_named_wrongly_is_a_data_error() -> None:
    png = encoded("png", natural_like(8, 8))
    for extension in ("jpg", "bmp", "tif", "webp"):
        with pytest.raises(DataError):
            decode_image(png, extension)
    with pytest.raises(DataError, match=r"no decoder for '\.gif'"):
        decode_image(png, "gif")
