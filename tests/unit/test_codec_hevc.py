"""What is particular to HEVC."""

from __future__ import annotations

import numpy as np
import pytest

from limla.codecs.bits import nal_units
from limla.codecs.container import read_whole
from limla.codecs.hevc import HevcCodec
from limla.errors import DataError
from limla.metrics import psnr_db
from tests.conftest import natural_like


def stream_of(height: int, width: int, quality: int = 30) -> bytes:
    codec = HevcCodec()
    return bytes(read_whole(codec.encode(natural_like(height, width), quality), "hevc").body)


def test_a_stream_is_three_parameter_sets_and_one_picture() -> None:
    types = [unit.data[0] >> 1 & 63 for unit in nal_units(stream_of(64, 80))]
    assert types[:3] == [32, 33, 34]
    assert types[3:] in ([19], [20])


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((1, 1), (16, 16)),
        ((17, 15), (18, 16)),
        ((33, 47), (34, 48)),
        ((64, 64), (64, 64)),
        ((3, 4216), (16, 4216)),
        ((3, 4217), (32, 4218)),
        ((5000, 3), (5000, 32)),
        ((271, 481), (272, 482)),
    ],
)
def test_the_header_says_even_sides_that_x265_takes(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    codec = HevcCodec()
    assert codec.padded_sides(*shape) == sides
    assert codec.coded_sides(stream_of(*shape, 51)) == sides


def test_six_qp_double_the_quantisers_step() -> None:
    """So the quality is the picture's own QP: x265 would lower it for a picture that others refer to."""
    gray = np.repeat(natural_like(96, 128)[..., 1:2], 3, axis=2)
    codec = HevcCodec()
    at_16, at_22, at_28 = (psnr_db(gray, codec.decode(codec.encode(gray, qp))) for qp in (16, 22, 28))
    assert 4.5 < at_16 - at_22 < 7
    assert 4.5 < at_22 - at_28 < 7


def test_pictures_of_other_kinds_are_refused() -> None:
    codec, body = HevcCodec(), stream_of(40, 56)
    vps, sps, pps, picture = (body[unit.begin : unit.end] for unit in nal_units(body))
    for units in (
        (vps, sps, pps),
        (vps, sps, pps, picture, picture),
        (sps, vps, pps, picture),
        (vps, sps, picture),
    ):
        with pytest.raises(DataError, match="not one picture of one slice"):
            codec.coded_sides(b"".join(units))
    place = sps.index(b"\x42\x01") + 2
    layers = sps[:place] + bytes((sps[place] | 0b0010,)) + sps[place + 1 :]
    with pytest.raises(DataError, match="several temporal layers"):
        codec.coded_sides(vps + layers + pps + picture)
    with pytest.raises(DataError, match="cut off"):
        codec.coded_sides(vps + sps[:12] + pps + picture)
