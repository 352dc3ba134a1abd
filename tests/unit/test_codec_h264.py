"""What is particular to H.264."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from limla.codecs.bits import nal_units
from limla.codecs.container import read_whole, write_container
from limla.codecs.h264 import H264Codec
from limla.codecs.ycbcr import Planes
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db
from tests.conftest import natural_like


def stream_of(height: int, width: int, quality: int = 30) -> bytes:
    codec = H264Codec()
    return bytes(read_whole(codec.encode(natural_like(height, width), quality), "h264").body)


def test_a_stream_is_two_parameter_sets_and_one_picture() -> None:
    assert [unit.data[0] & 31 for unit in nal_units(stream_of(64, 80))] == [7, 8, 5]


@pytest.mark.parametrize("shape", [(1, 1), (2, 18), (15, 17), (16, 16), (33, 47), (250, 16), (271, 481)])
def test_the_header_says_the_even_sides(shape: tuple[int, int]) -> None:
    height, width = shape
    assert H264Codec().coded_sides(stream_of(height, width, 51)) == (height + height % 2, width + width % 2)


def test_x264s_note_is_left_out_and_the_picture_is_the_same() -> None:
    codec = H264Codec()
    planes = Planes(*(np.full((side, side), 99, np.uint8) for side in (32, 16, 16)))
    whole = codec._encode_planes(planes, 30)
    stripped = codec.strip(whole)
    assert b"x264 - core" in whole
    assert len(stripped) < len(whole) - 400
    for one, other in zip(
        codec._decode_planes(whole, 32, 32), codec._decode_planes(stripped, 32, 32), strict=True
    ):
        assert np.array_equal(one, other)


def test_a_quantiser_step_of_twice_the_size_is_six_qp() -> None:
    """So the quality is the picture's own QP: x264 would lower it for a picture that others refer to."""
    image = natural_like(96, 128)
    gray = np.repeat(image[..., 1:2], 3, axis=2)
    codec = H264Codec()
    found = [psnr_db(gray, codec.decode(codec.encode(gray, quality))) for quality in (16, 22, 28)]
    assert all(5 < better - worse < 7 for better, worse in pairwise(found)), found  # 6.02 dB in theory


def test_the_scale_ends_where_order_ends() -> None:
    for quality in (0, 9, 52):
        with pytest.raises(SettingsError, match=f"QP {quality} is out of range: choose 10 to 51"):
            H264Codec().encode(natural_like(8, 8), quality)


def test_a_picture_that_is_cut_off_is_refused() -> None:
    body = stream_of(40, 56)
    for length in range(0, len(body) - 8, 7):
        with pytest.raises(DataError):
            H264Codec().decode(write_container("h264", 40, 56, body[:length]))


def test_pictures_of_other_kinds_are_refused() -> None:
    codec, body = H264Codec(), stream_of(40, 56)
    sps, pps, picture = (body[unit.begin : unit.end] for unit in nal_units(body))
    for units in ((sps, pps), (sps, pps, picture, picture), (pps, sps, picture), (sps, sps, pps, picture)):
        with pytest.raises(DataError, match="not one picture of one slice"):
            codec.coded_sides(b"".join(units))
    # profile 100, constraints and level, set 0 "1"; then the chroma format: 4:2:2 is "011", 4:4:4 "00100"
    for bits in ("101111000", "10010011000"):
        header = bytes((100, 0, 30)) + int(bits.ljust(16, "1"), 2).to_bytes(2, "big")
        with pytest.raises(DataError, match=r"not 4:2:0 of 8 bits|cut off"):
            codec.coded_sides(b"\0\0\0\1\x67" + header + pps + picture)
