"""HEVC (ITU-T H.265): one intra picture through PyAV, encoded by x265."""

from __future__ import annotations

import functools
import re
from typing import ClassVar

import numpy as np

from limla.codecs.base import QualityScale
from limla.codecs.bits import BitReader, nal_units, raw_payload
from limla.codecs.container import LONGEST_SIDE
from limla.codecs.intra import IntraCodec
from limla.codecs.ycbcr import Planes
from limla.errors import DataError

_IDR, _VPS, _SPS, _PPS, _SEI = (19, 20), 32, 33, 34, (39, 40)
_LONG, _SHORTEST_OF_LONG = 4216, 32
"""Longer pictures are of level 5 or higher, where a block has at least 32 pixels a side."""


class HevcCodec(IntraCodec):
    """One HEVC picture, constant QP.

    Tuned for PSNR, the distortion by which limla compares: x265's psychovisual choices lower it. Preset "medium",
    x265's own: "slow" takes twice the time for about 2% fewer bits.

    FFmpeg's decoder does not notice that a picture's data are damaged or end early, and what is missing then has any
    pixels: it is the container's checksum that keeps damage out.
    """

    name: ClassVar[str] = "hevc"
    scale: ClassVar[QualityScale] = QualityScale("QP", 0, 51, higher_is_better=False)
    encoder: ClassVar[str] = "libx265"
    decoder: ClassVar[str] = "hevc"
    shortest_side: ClassVar[int] = 16
    most_rows: ClassVar[int] = LONGEST_SIDE
    most_columns: ClassVar[int] = LONGEST_SIDE
    # x265 gives a lone picture a lower QP than it is told, unless ipratio is 1; "info" is its note about itself
    pinned: ClassVar[dict[str, str]] = {
        "preset": "medium",
        "tune": "psnr",
        "x265-params": "qp={quality}:ipratio=1:keyint=1:bframes=0:scenecut=0:rc-lookahead=0:aq-mode=0:cutree=0:"
        "pools=none:frame-threads=1:wpp=0:slices=1:info=0:hash=0:aud=0:vui-timing-info=0:repeat-headers=1:"
        "log-level=none",
    }

    def padded_sides(self, height: int, width: int) -> tuple[int, int]:
        """Blocks are no larger than the picture, and the levels of long pictures (H.265, A.4.1) have no small ones."""
        shortest = _SHORTEST_OF_LONG if max(height, width) > _LONG else self.shortest_side
        rows, columns = super().padded_sides(height, width)
        return max(rows, shortest), max(columns, shortest)

    def strip(self, stream: bytes) -> bytes:
        """Without messages, should there be any."""
        return b"".join(
            stream[unit.begin : unit.end] for unit in nal_units(stream) if _unit_type(unit.data) not in _SEI
        )

    def coded_sides(self, stream: bytes) -> tuple[int, int]:
        """Of the sequence parameter set (H.265, 7.3.2.2)."""
        units = nal_units(stream)
        types = [_unit_type(unit.data) for unit in units]
        if types[:-1] != [_VPS, _SPS, _PPS] or types[-1] not in _IDR:
            raise DataError("an HEVC stream that is not one picture of one slice")
        return _sps_sides(BitReader(raw_payload(units[1].data[2:])))

    def encoder_version(self) -> str:
        """What x265 writes into its streams unless told not to."""
        return _x265_version()


def _unit_type(unit: bytes) -> int:
    return unit[0] >> 1 & 63


def _sps_sides(sps: BitReader) -> tuple[int, int]:
    sps.bits(4)  # video parameter set
    if sps.bits(3):
        raise DataError("an HEVC stream of several temporal layers")
    sps.bits(1 + 88 + 8)  # nesting; profile and tier; level
    sps.exp_golomb()  # its number
    if sps.exp_golomb() != 1:
        raise DataError("an HEVC picture that is not 4:2:0")
    width, height = sps.exp_golomb(), sps.exp_golomb()
    if sps.bits(1):
        width -= 2 * (sps.exp_golomb() + sps.exp_golomb())
        height -= 2 * (sps.exp_golomb() + sps.exp_golomb())
    return height, width


class _Talking(HevcCodec):
    """x265 with its note about itself."""

    pinned: ClassVar[dict[str, str]] = {
        option: value.replace("info=0:hash", "info=1:hash") for option, value in HevcCodec.pinned.items()
    }


@functools.cache
def _x265_version() -> str:
    black = Planes(*(np.zeros((side, side), np.uint8) for side in (16, 8, 8)))
    stream = _Talking()._encode_planes(black, HevcCodec.scale.highest)
    found = re.search(rb"x265 (\(build \d+\) - [^:\s]*)", stream)
    assert found, "x265 says nothing of itself"
    return f"x265 {found[1].decode('ascii')}"
