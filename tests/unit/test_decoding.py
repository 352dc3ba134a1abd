"""Members of a shard → pixels, for every format that can stand in one."""

from __future__ import annotations

import io

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


@pytest.mark.parametrize("extension", FORMATS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    length=st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage and goes on
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
