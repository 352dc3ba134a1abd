"""What is particular to WebP; what every codec must do is in tests/contracts."""

from __future__ import annotations

import io
import struct

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import build_codec, codec_label
from limla.codecs.base import MAX_PIXELS
from limla.codecs.webp import WebpCodec, decode_webp
from limla.errors import DataError, SettingsError
from tests.catalogue import decodes_or_data_error
from tests.conftest import natural_like


def test_the_file_is_of_the_recorded_kind() -> None:
    """A simple lossy file: one VP8 key frame, nothing around it."""
    data = WebpCodec().encode(natural_like(37, 53), 60)
    assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8 ")
    assert int.from_bytes(data[4:8], "little") + 8 == len(data)
    assert struct.unpack_from("<HH", data, 26) == (53, 37)
    file = io.BytesIO()
    PIL.Image.fromarray(natural_like(37, 53)).save(file, "WEBP", quality=60, method=4)
    assert data == file.getvalue()


def test_the_method_is_a_knob() -> None:
    image = natural_like(64, 96, seed=1)
    lengths = [len(build_codec(f"webp:method={method}").encode(image, 50)) for method in (0, 6)]
    assert lengths[1] < lengths[0]
    assert codec_label("webp:method=4") == "webp"
    assert codec_label("webp:method=6") == "webp:method=6"
    for method in (-1, 7):
        with pytest.raises(SettingsError, match=f"WebP method {method} is out of range: choose 0 to 6"):
            WebpCodec(method)


def test_the_longest_side_is_exact() -> None:
    codec = WebpCodec()
    line = np.full((1, 16383, 3), 90, np.uint8)
    assert codec.decode(codec.encode(line, 10)).shape == line.shape
    assert codec.decode(codec.encode(line.reshape(-1, 1, 3), 10)).shape == (16383, 1, 3)
    for shape in ((16384, 1, 3), (1, 16384, 3)):
        with pytest.raises(SettingsError, match="16384 pixels is too long for WebP: at most 16383"):
            codec.encode(np.zeros(shape, np.uint8), 50)


def test_every_cut_is_seen() -> None:
    data = WebpCodec().encode(natural_like(24, 40), 50)
    for length in range(len(data)):
        with pytest.raises(DataError):
            decode_webp(data[:length])


def test_a_header_of_too_many_pixels_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(WebpCodec().encode(natural_like(16, 16), 50))
    struct.pack_into("<HH", data, 26, 16383, 16383)
    with pytest.raises(
        DataError, match=f"16383 × 16383 pixels; an image has at least 1 and at most {MAX_PIXELS}"
    ):
        decode_webp(bytes(data))
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + (20000).to_bytes(3, "little") + (19999).to_bytes(3, "little")
    extended = b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas
    with pytest.raises(DataError, match="20000 × 20001 pixels"):
        decode_webp(extended)


def test_what_others_write_decodes_as_by_pillow() -> None:
    """Lossless, transparent and moving files: packing stores WebP that users bring."""
    picture = PIL.Image.fromarray(natural_like(21, 34))
    clear = picture.copy()
    clear.putalpha(PIL.Image.fromarray(natural_like(21, 34, 1)[..., 0]))
    for frame, options in (
        (picture, {"lossless": True}),
        (clear, {"lossless": True}),
        (clear, {"quality": 70}),
        (picture, {"save_all": True, "append_images": [picture.rotate(180)], "quality": 70}),
    ):
        file = io.BytesIO()
        frame.save(file, "WEBP", **options)
        with PIL.Image.open(file) as read:
            assert np.array_equal(decode_webp(file.getvalue()), np.asarray(read.convert("RGB")))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 255))
        | st.tuples(st.integers(61, 10**6), st.integers(0, 255)),
        min_size=1,
        max_size=8,
    ),
    is_lossless=st.booleans(),
)
def test_damage_in_headers_and_tables(changes: list[tuple[int, int]], is_lossless: bool) -> None:
    """Mostly in the first bytes, where sizes, partitions, segments and probabilities are told."""
    file = io.BytesIO()
    PIL.Image.fromarray(natural_like(20, 28)).save(file, "WEBP", lossless=is_lossless, quality=50)
    data = bytearray(file.getvalue())
    sides = range(21, 25) if is_lossless else range(26, 30)
    for place, value in changes:
        place %= len(data)
        if place not in sides:  # they decide how much is allocated: half a gigabyte is allowed
            data[place] = value
    decodes_or_data_error(decode_webp, bytes(data))
