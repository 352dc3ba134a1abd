"""Reading the headers of video bitstreams: whole bits, Exp-Golomb numbers, NAL units (ITU-T H.264 and H.265)."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from limla.errors import DataError

_START = re.compile(b"\0\0\0?\1")
_LONGEST_EXP_GOLOMB = 32
_LONGEST_HEADER = 1 << 10
MOST_UNITS = 8
"""Of a stream: one picture and its headers are five at most. A stream may hold one for every three bytes."""


class BitReader:
    """Numbers out of bytes, the highest bit first. Reading past the end, or a kilobyte, raises `DataError`."""

    def __init__(self, data: bytes) -> None:
        data = data[:_LONGEST_HEADER]  # each number costs as much as the whole is long
        self._number = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def bits(self, count: int) -> int:
        """A number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise DataError("a video header that is cut off")
        return (self._number >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """ue(v) of H.264, 9.1: n zeros, then a number of n + 1 bits, less one."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > _LONGEST_EXP_GOLOMB:
                raise DataError("a video header with a number that is too long")
        return (1 << zeros) - 1 + self.bits(zeros)


class Unit(NamedTuple):
    """A NAL unit: its place in the stream with the start code, and its bytes without."""

    begin: int
    end: int
    data: bytes


def nal_units(stream: bytes) -> list[Unit]:
    """The NAL units of a byte stream (Annex B).

    Raises `DataError` for a stream that does not begin with a start code, an empty unit, and more than `MOST_UNITS`.
    """
    starts = list(itertools.islice(_START.finditer(stream), MOST_UNITS + 1))
    if len(starts) > MOST_UNITS:
        raise DataError(f"a video stream of more than {MOST_UNITS} units, which is not one picture")
    if not starts or starts[0].start() != 0:
        raise DataError("a video stream that does not begin with a start code")
    ends = [start.start() for start in starts[1:]] + [len(stream)]
    units = [
        Unit(start.start(), end, stream[start.end() : end]) for start, end in zip(starts, ends, strict=True)
    ]
    if not all(unit.data for unit in units):
        raise DataError("a video stream with an empty NAL unit")
    return units


def raw_payload(unit: bytes) -> bytes:
    """The bytes of a NAL unit without those that keep start codes out of it (H.264, 7.3.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")
