"""What is particular to JPEG 2000; what every codec must do is in tests/contracts."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs.base import MAX_PIXELS
from limla.codecs.jpeg2000 import Jpeg2000Codec
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db
from tests.catalogue import decodes_or_data_error
from tests.conftest import natural_like

CODESTREAM = 85
"""Where it begins in a file of this codec."""


def segment(data: bytes, marker: int) -> bytes:
    """A segment of the main header."""
    place = data.index(bytes((0xFF, marker)), CODESTREAM)
    return data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]


def by_pillow(**options: Any) -> bytes:
    """A file of 40 × 56 pixels with other settings than the codec's."""
    file = io.BytesIO()
    PIL.Image.fromarray(natural_like(40, 56)).save(
        file,
        "JPEG2000",
        **{"irreversible": True, "mct": 1, "quality_mode": "dB", "quality_layers": [30], **options},
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "resolutions"), [((64, 64), 6), ((32, 90), 6), ((31, 90), 5), ((2, 2), 2), ((1, 300), 1)]
)
def test_the_file_has_the_recorded_settings(shape: tuple[int, int], resolutions: int) -> None:
    data = Jpeg2000Codec().encode(natural_like(*shape), 300)
    scod, progression, layers, colours, levels, across, down, style, wavelet = struct.unpack(
        ">BBHBBBBBB", segment(data, 0x52)
    )
    assert (scod, progression, layers, colours, style) == (0, 0, 1, 1, 0)
    assert (across, down, wavelet) == (4, 4, 0)  # code blocks of 2**(4 + 2), the 9/7 wavelet
    assert levels + 1 == resolutions
    assert segment(data, 0x64) == b"\0\1 "
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG2000", "RGB", shape[::-1])
        assert np.array_equal(np.asarray(picture), Jpeg2000Codec().decode(data))


def test_the_quality_is_nearly_the_psnr() -> None:
    codec, image = Jpeg2000Codec(), natural_like(128, 160, seed=1)
    for quality in (200, 250, 300, 350, 400, 450):
        assert abs(psnr_db(image, codec.decode(codec.encode(image, quality))) - quality / 10) < 0.75


def test_a_tenth_of_a_db_is_as_fine_as_openjpeg_goes() -> None:
    """It takes or leaves whole coding passes, so in small pictures several qualities are one file; none is longer."""
    codec, image = Jpeg2000Codec(), natural_like(128, 160, seed=2)
    lengths = np.array([len(codec.encode(image, quality)) for quality in range(240, 300, 2)])
    assert (np.diff(lengths) >= 0).all()
    assert len(set(lengths)) > 15
    assert (lengths[1:] / lengths[:-1]).max() < 1.2


def test_a_side_too_long_is_refused() -> None:
    with pytest.raises(SettingsError, match="65501 pixels is too long for JPEG 2000: at most 65500"):
        Jpeg2000Codec().encode(np.zeros((65501, 1, 3), np.uint8), 300)
    line = np.full((1, 65500, 3), 90, np.uint8)
    assert psnr_db(line, Jpeg2000Codec().decode(Jpeg2000Codec().encode(line, 300))) > 27


def test_every_cut_is_seen() -> None:
    codec = Jpeg2000Codec()
    data = codec.encode(natural_like(24, 40), 250)
    for length in range(len(data)):
        with pytest.raises(DataError):
            codec.decode(data[:length])
    with pytest.raises(DataError):
        codec.decode(data + b"\0")


def test_a_header_of_too_many_pixels_is_refused_before_anything_is_allocated() -> None:
    data = bytearray(Jpeg2000Codec().encode(natural_like(16, 16), 300))
    place = data.index(b"ihdr") + 4
    struct.pack_into(">II", data, place, 60000, 50000)
    with pytest.raises(
        DataError, match=f"60000 × 50000 pixels; an image has at least 1 and at most {MAX_PIXELS}"
    ):
        Jpeg2000Codec().decode(bytes(data))
    # the box says 16 × 16, the codestream more
    struct.pack_into(">II", data, place, 16, 16)
    struct.pack_into(">II", data, data.index(b"\xff\x51") + 6, 60000, 50000)
    with pytest.raises(DataError, match="a header of a kind this codec does not write"):
        Jpeg2000Codec().decode(bytes(data))


@pytest.mark.parametrize(
    "options",
    [
        {"irreversible": False, "quality_layers": None},
        {"quality_layers": [30, 40]},
        {"tile_size": (32, 32)},
        {"precinct_size": (32, 32)},
        {"codeblock_size": (16, 16)},
        {"progression": "RPCL"},
        {"plt": True},
        {"no_jp2": True},
    ],
    ids=str,
)
def test_kinds_that_it_does_not_write_are_refused(options: dict[str, Any]) -> None:
    Jpeg2000Codec().decode(by_pillow())
    with pytest.raises(DataError, match=r"a kind this codec does not write|lacks a header|is not whole"):
        Jpeg2000Codec().decode(by_pillow(**options))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 240), st.integers(0, 255)), min_size=1, max_size=4),
    where=st.sampled_from(["boxes", "packets", "anywhere"]),
)
def test_damage_in_headers_and_packets(changes: list[tuple[int, int]], where: str) -> None:
    """The pictures that still decode have the size of the header."""
    codec = Jpeg2000Codec()
    data = bytearray(codec.encode(natural_like(40, 56), 280))
    first = data.index(b"\xff\x93") if where == "packets" else 0
    for place, value in changes:
        at = place * len(data) // 241 if where == "anywhere" else first + place
        data[at] = value
    decodes_or_data_error(codec.decode, bytes(data))
