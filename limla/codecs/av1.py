"""AV1 (AOMedia): one intra picture through PyAV, encoded by SVT-AV1, decoded by dav1d."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from limla.codecs.base import QualityScale
from limla.codecs.bits import MOST_UNITS, BitReader
from limla.codecs.intra import IntraCodec
from limla.codecs.ycbcr import Planes
from limla.errors import DataError

_SEQUENCE, _DELIMITER, _FRAME = 1, 2, 6
_LOG_VARIABLE = "SVT_LOG"
_SILENT = "0"
_lock = threading.Lock()


class Av1Codec(IntraCodec):
    """One AV1 picture, constant QP, in SVT-AV1's mode for still pictures.

    Tuned for PSNR, the distortion by which limla compares. Preset 6: 4 takes over three times the time for about 2.5%
    fewer bits, 8 a third of it for 4.5% more. SVT-AV1 starts threads for every picture, of which one works at a
    time.
    """

    name: ClassVar[str] = "av1"
    scale: ClassVar[QualityScale] = QualityScale("QP", 1, 63, higher_is_better=False)
    encoder: ClassVar[str] = "libsvtav1"
    decoder: ClassVar[str] = "libdav1d"
    shortest_side: ClassVar[int] = 4
    most_rows: ClassVar[int] = 8704
    most_columns: ClassVar[int] = 16384
    # qp, and not crf, which SVT-AV1 understands otherwise for small pictures
    pinned: ClassVar[dict[str, str]] = {
        "preset": "6",
        "qp": "{quality}",
        "svtav1-params": "avif=1:tune=1:aq-mode=0:lp=1",
    }

    def strip(self, stream: bytes) -> bytes:
        """As it is: SVT-AV1 adds nothing."""
        return stream

    def coded_sides(self, stream: bytes) -> tuple[int, int]:
        """Of the sequence header (AV1 bitstream specification, 5.5.1)."""
        units = _obus(stream)
        if [kind for kind, _ in units] != [_DELIMITER, _SEQUENCE, _FRAME]:
            raise DataError("an AV1 stream that is not one picture")
        return _sequence_sides(BitReader(units[1][1]))

    def encoder_version(self) -> str:
        """SVT-AV1 has no way to tell; PyAV's and libavcodec's versions stand for it."""
        return "SVT-AV1"

    def _encode_planes(self, planes: Planes, quality: int) -> bytes:
        _silence()
        with _scheduled_as_before():
            return super()._encode_planes(planes, quality)


def _silence() -> None:
    """SVT-AV1 writes to stderr, and an environment variable is all that it asks; a user's own is left."""
    if _LOG_VARIABLE not in os.environ:
        with _lock:
            os.environ.setdefault(_LOG_VARIABLE, _SILENT)


@contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """Put back how this thread is scheduled: where it may, as root may, SVT-AV1 makes its caller a real-time thread.

    All threads that it starts later would be real-time threads too, and where they wait for each other by spinning, as
    those of OpenBLAS, wait for ever.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def _obus(stream: bytes) -> list[tuple[int, bytes]]:
    """Type and payload of each unit (AV1 bitstream specification, 5.3).

    Raises `DataError` unless they fill the stream, and for more than `MOST_UNITS`.
    """
    units: list[tuple[int, bytes]] = []
    place = 0
    while place < len(stream):
        if len(units) == MOST_UNITS:
            raise DataError(f"an AV1 stream of more than {MOST_UNITS} units, which is not one picture")
        header = stream[place]
        if header & 0b10000111 != 0b10:  # no extension, with a size, nothing forbidden or reserved
            raise DataError("an AV1 stream with a unit of another form")
        place += 1
        length = shift = 0
        while True:
            if place == len(stream) or shift > 28:
                raise DataError("an AV1 stream with a unit that is cut off")
            length |= (stream[place] & 127) << shift
            shift += 7
            place += 1
            if stream[place - 1] < 128:
                break
        if place + length > len(stream):
            raise DataError("an AV1 stream with a unit that is cut off")
        units.append((header >> 3, stream[place : place + length]))
        place += length
    return units


def _sequence_sides(header: BitReader) -> tuple[int, int]:
    if header.bits(3):
        raise DataError("an AV1 picture that is not of the main profile")
    header.bits(1)  # a still picture
    if header.bits(1):  # in the short form
        header.bits(5)  # level
    else:
        if header.bits(7):
            raise DataError("an AV1 stream with timing or several operating points")
        header.bits(12)
        if header.bits(5) > 7:  # level
            header.bits(1)
    width_bits, height_bits = header.bits(4) + 1, header.bits(4) + 1
    width = header.bits(width_bits) + 1
    return header.bits(height_bits) + 1, width
