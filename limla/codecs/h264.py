"""H.264 (ITU-T H.264, AVC): one intra picture through PyAV, encoded by x264."""

from __future__ import annotations

import functools
import re
from typing import ClassVar

import numpy as np

from limla.codecs.base import QualityScale
from limla.codecs.bits import BitReader, nal_units, raw_payload
from limla.codecs.intra import IntraCodec
from limla.codecs.ycbcr import Planes
from limla.errors import DataError

_IDR, _SEI, _SPS, _PPS = 5, 6, 7, 8
_UNITS = [_SPS, _PPS, _IDR]
_HIGH = (100, 110, 122, 244)
"""Profiles whose header says the chroma format and the bit depth."""


class H264Codec(IntraCodec):
    """One H.264 picture, constant QP.

    Tuned for PSNR, the distortion by which limla compares: x264's psychovisual choices lower it. Preset "slow":
    "medium" takes a third of the time and about 2% more bits, slower ones gain nothing in a single picture. One slice:
    more are for threads, and cost bits. The scale begins at 10: below, PSNR and bits fall and rise by chance from one
    QP to the next (the halved colours are all of a photo's error by then), and 0 is another, lossless mode.
    """

    name: ClassVar[str] = "h264"
    scale: ClassVar[QualityScale] = QualityScale("QP", 10, 51, higher_is_better=False)
    encoder: ClassVar[str] = "libx264"
    decoder: ClassVar[str] = "h264"
    shortest_side: ClassVar[int] = 2
    most_rows: ClassVar[int] = 16384
    most_columns: ClassVar[int] = 16384
    # x264 gives a lone picture a lower QP than it is told, unless ipratio is 1, and computes otherwise on an old CPU
    pinned: ClassVar[dict[str, str]] = {
        "preset": "slow",
        "tune": "psnr",
        "qp": "{quality}",
        "x264-params": "ipratio=1:keyint=1:bframes=0:scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:"
        "aq-mode=0:threads=1:lookahead-threads=1:sliced-threads=0:slices=1:cpu-independent=1",
    }

    def strip(self, stream: bytes) -> bytes:
        """Without x264's note about itself, which is longer than many a picture."""
        return b"".join(
            stream[unit.begin : unit.end] for unit in nal_units(stream) if unit.data[0] & 31 != _SEI
        )

    def coded_sides(self, stream: bytes) -> tuple[int, int]:
        """Of the sequence parameter set (H.264, 7.3.2.1.1)."""
        units = nal_units(stream)
        if [unit.data[0] & 31 for unit in units] != _UNITS:
            raise DataError("an H.264 stream that is not one picture of one slice")
        return _sps_sides(BitReader(raw_payload(units[0].data[1:])))

    def encoder_version(self) -> str:
        """What x264 writes into its streams."""
        return _x264_version()


def _sps_sides(sps: BitReader) -> tuple[int, int]:
    profile = sps.bits(8)
    sps.bits(16)  # constraints, level
    sps.exp_golomb()  # its number
    if profile in _HIGH:
        chroma, luma_depth, chroma_depth = sps.exp_golomb(), sps.exp_golomb(), sps.exp_golomb()
        if (chroma, luma_depth, chroma_depth, sps.bits(2)) != (1, 0, 0, 0):
            raise DataError("an H.264 picture that is not 4:2:0 of 8 bits with flat matrices")
    sps.exp_golomb()  # bits of the frame number
    order = sps.exp_golomb()
    if order == 1:
        raise DataError("an H.264 stream with pictures out of order")
    if order == 0:
        sps.exp_golomb()
    sps.exp_golomb()  # reference frames
    sps.bits(1)
    width, height = 16 * (sps.exp_golomb() + 1), 16 * (sps.exp_golomb() + 1)
    if not sps.bits(1):
        raise DataError("an H.264 picture of fields")
    sps.bits(1)
    if sps.bits(1):
        width -= 2 * (sps.exp_golomb() + sps.exp_golomb())
        height -= 2 * (sps.exp_golomb() + sps.exp_golomb())
    return height, width


@functools.cache
def _x264_version() -> str:
    black = Planes(*(np.zeros((side, side), np.uint8) for side in (16, 8, 8)))
    stream = H264Codec()._encode_planes(black, H264Codec.scale.highest)
    found = re.search(rb"x264 - (core [^-]*[^- ])", stream)
    assert found, "x264 says nothing of itself"
    return f"x264 {found[1].decode('ascii')}"
