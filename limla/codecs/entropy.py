"""Lossless coding of rows of whole numbers of very different sizes: an adaptive binary range coder with contexts.

A number is cut into yes/no decisions: how many bits its magnitude has, in unary; its sign; the bits below the leading
one. Each decision is coded at the probability learnt from those before it whose neighbours were about as large: the two
numbers before it in the row. The probabilities adapt as they go (the mean of a fast and a slow estimate), so none stand
in the file, and all is done in whole numbers: the bytes are the same on every machine. The coder is Martin's range
coder (Video & Data Recording Conference 1979) with carries. One kernel both writes and reads, so the two cannot
disagree about a context.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from limla.kernels import kernel

Rows = npt.NDArray[np.int32]

MOST = (1 << 20) - 1
"""The largest magnitude of a number."""
_BITS = 20  # of it
_LEVELS = 46  # of the size of neighbours: 2 for each doubling of 5 times their mean
_SIGN = _LEVELS * (_BITS + 1)
_FIRST = _SIGN + 9
_SECOND = _FIRST + _LEVELS * (_BITS + 1)
_REST = _SECOND + 2 * (_BITS + 1)
_CONTEXTS = _REST + (_BITS + 1) * _BITS

_LOW, _RANGE, _CODE, _PLACE, _STATES = 0, 1, 2, 3, 4
_TOP = 1 << 32
_FLUSH_BYTES = 4
_MOST_BYTES_EACH = 64
"""Of one number: 41 decisions at most, and one that was thought most unlikely costs 10 bits."""


class RowModel:
    """What a coder has learnt of rows of one kind. A writer and a reader begin with a new one each."""

    def __init__(self) -> None:
        self.chances = np.full(2 * _CONTEXTS, 1 << 15, np.uint16)


class RowWriter:
    """Codes rows one after another into one run of bytes."""

    def __init__(self) -> None:
        self._state = np.array([0, _TOP - 1, 0, 0], np.int64)
        self._data = np.zeros(1 << 12, np.uint8)

    @property
    def num_bytes(self) -> int:
        """Of what was written so far, within 4."""
        return int(self._state[_PLACE])

    def write(self, row: Rows, model: RowModel) -> None:
        """Add a row.

        Args:
            row: (N,) int32, magnitudes up to `MOST`.
            model: learns of it.
        """
        assert row.ndim == 1
        assert row.size == 0 or int(np.abs(row).max()) <= MOST
        used = int(self._state[_PLACE])
        if used + _MOST_BYTES_EACH * row.size + 16 > self._data.size:
            room = np.zeros(2 * self._data.size + _MOST_BYTES_EACH * row.size, np.uint8)
            room[:used] = self._data[:used]
            self._data = room
        _run(np.ascontiguousarray(row, np.int32), model, self._data, self._state, decoding=0)

    def finish(self) -> bytes:
        """All that was written."""
        low, place = int(self._state[_LOW]), int(self._state[_PLACE])
        # the shortest number within the range: a reader takes zeros for what is missing
        end = low + int(self._state[_RANGE]) - 1
        for bits in (24, 16, 8, 0):
            number = end >> bits << bits
            if number >= low:
                break
        whole = (int.from_bytes(self._data[:place].tobytes(), "big") << 32) + number
        data = whole.to_bytes(place + _FLUSH_BYTES, "big")
        return data[:place] + data[place:].rstrip(b"\0")


class RowReader:
    """Reads what a `RowWriter` wrote.

    Args:
        data: what `RowWriter.finish` returned. Anything else gives some numbers, and ends.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = np.frombuffer(bytes(data) + bytes(4), np.uint8)
        code = int.from_bytes(self._data[:4].tobytes(), "big")
        self._state = np.array([0, _TOP - 1, code, 4], np.int64)

    @property
    def is_past_end(self) -> bool:
        """Whether more was read than a `RowWriter` ever wrote so few bytes for: the data is something else."""
        return int(self._state[_PLACE]) > self._data.size

    def read(self, length: int, model: RowModel) -> Rows:
        """The next row of `length` numbers, with the `model` that knows the same rows as when it was written."""
        row = np.zeros(length, np.int32)
        _run(row, model, self._data, self._state, decoding=1)
        return row


def _run(
    row: Rows,
    model: RowModel,
    data: npt.NDArray[np.uint8],
    state: npt.NDArray[np.int64],
    decoding: int,
) -> None:
    _code(
        row.ctypes.data,
        row.size,
        model.chances.ctypes.data,
        data.ctypes.data,
        data.size,
        state.ctypes.data,
        decoding,
    )


@kernel("int32*", "int64", "uint16*", "uint8*", "int64", "int64*", "int64")
def _code(
    row: Any,
    columns: int,
    chances: Any,
    data: Any,
    num_bytes: int,
    state: Any,
    decoding: int,
) -> None:
    """Write `row` to `data`, or read it from there; every turn of the loop is one decision."""
    low, span, code, place = state[_LOW], state[_RANGE], state[_CODE], state[_PLACE]
    column, step, bits, level = 0, 0, 0, -1
    value, magnitude, negative, sign_context = 0, 0, 0, 0
    while column < columns:
        if level < 0:  # a new number: what is around it
            left = abs(row[column - 1]) if column > 0 else 0
            second = abs(row[column - 2]) if column > 1 else 0
            around = 4 * left + second
            sign_context = 0
            if column > 0:
                sign_context += 3 * ((row[column - 1] > 0) + 2 * (row[column - 1] < 0))
            if column > 1:
                sign_context += (row[column - 2] > 0) + 2 * (row[column - 2] < 0)
            size = 0
            while around >> size > 1:
                size += 1
            level = 0 if around == 0 else 2 * size + 1 + ((around >> max(size - 1, 0)) & (size > 0))
            level = min(level, _LEVELS - 1)
            step, bits = 0, -1
            if decoding == 0:
                value = row[column]
                magnitude = abs(value)
                negative = value < 0
            else:
                magnitude, negative = 0, 0
        # which decision, and what it is when writing
        bit = 0
        if bits < 0:
            context = level * (_BITS + 1) + step
            bit = magnitude >> step != 0
        elif step == bits:
            context = _SIGN + sign_context
            bit = negative
        else:
            below = bits - 2 - step  # bits of the magnitude below this one
            bit = (magnitude >> below) & 1
            if step == 0:
                context = _FIRST + level * (_BITS + 1) + bits
            elif step == 1:
                context = _SECOND + 2 * bits + ((magnitude >> (below + 1)) & 1)
            else:
                context = _REST + bits * _BITS + step
        fast, slow = np.int64(chances[2 * context]), np.int64(chances[2 * context + 1])
        part = (span >> 12) * ((fast + slow) >> 5)
        if decoding != 0:
            bit = code >= part
        if bit:
            low += part
            span -= part
            code -= part
            fast -= fast >> 4
            slow -= slow >> 6
        else:
            span = part
            fast += (65535 - fast) >> 4
            slow += (65535 - slow) >> 6
        chances[2 * context] = fast
        chances[2 * context + 1] = slow
        if decoding == 0 and low >= _TOP:  # a carry into bytes already written
            low -= _TOP
            carry = place - 1
            while carry >= 0 and data[carry] == 255:
                data[carry] = 0
                carry -= 1
            if carry >= 0:
                data[carry] += 1
        while span < 1 << 24:
            span <<= 8
            if decoding == 0:
                data[place] = low >> 24
                low = (low << 8) & (_TOP - 1)
            else:
                code = (code << 8) | (data[place] if place < num_bytes else 0)
            place += 1
        # what comes next
        ended = 0
        if bits < 0:
            if bit:
                step += 1
            if not bit or step == _BITS:
                bits = step
                if decoding != 0:
                    magnitude = (1 << bits) >> 1
                step = bits if bits < 2 else 0
                if bits == 0:
                    ended = 1
        elif step == bits:
            negative = bit
            ended = 1
        else:
            if decoding != 0:
                magnitude |= np.int64(bit) << (bits - 2 - step)
            step += 1
            if step == bits - 1:
                step = bits
        if ended:
            if decoding != 0:
                row[column] = -magnitude if negative else magnitude
            column += 1
            level = -1
    state[_LOW], state[_RANGE], state[_CODE], state[_PLACE] = low, span, code, place
