"""Lossless coding of grids of small whole numbers: an adaptive binary range coder with contexts in two dimensions.

Each number is cut into yes/no decisions (is it zero, its sign, is it more than 1, than 2 …), and each decision is coded
at the probability learnt from those before it in like places: with as large numbers to the left and above, and as large
ones in the same place of the grids before. It is the mean of two estimates, of this grid and of all in its group. They
adapt as they go, so none stand in the file. The coder is Martin's range coder (Video & Data Recording Conference 1979)
in whole numbers: equal bytes on every machine. One kernel both writes and reads, so the two cannot disagree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from limla.errors import DataError
from limla.kernels import kernel

Grids = npt.NDArray[np.int8]

_I = np.int64  # numba's int() leaves 8 bits as they are, and abs(-128) is then -128
_MOST = 127
_LOW, _SPAN, _CODE, _PLACE = 0, 1, 2, 3
_FULL = (1 << 32) - 1
_MOST_BYTES_EACH = 32  # of 24 decisions, of 10 bits where one was thought most unlikely

# the places of a table of estimates: zero or not, the sign, more or not, the bits of what is left
_LEVELS = 12  # of the numbers around
_OWN_LEVELS = 5  # in a grid's own table, which has little time to learn
_ENERGIES = 4  # of the numbers in this place of the grids before
_SIGNS = 9
_UNARY = 14  # decisions whether it is more; the rest is written in 8 bits
_REST = 8
_SHARED_LENGTH = _LEVELS * _ENERGIES + _SIGNS + _LEVELS * _UNARY + _REST
_OWN_LENGTH = _OWN_LEVELS * _ENERGIES + _SIGNS + _OWN_LEVELS * _UNARY + _REST
_EVEN = (
    1 << 23
)  # an estimate is a probability in 16 bits above how often it was used in 8; this one: 1/2, never
_SLOWEST = 60


class GridWriter:
    """Codes groups of grids one after another."""

    def __init__(self) -> None:
        self._state = np.array([0, _FULL, 0, 0], np.int64)
        self._data = np.empty(0, np.uint8)

    def write(self, grids: Grids) -> None:
        """Add a group of (K, rows, columns) numbers from -127 to 127, which are told from their neighbours' sizes.

        The first grid is taken to be the smoothest: what is coded is its difference from what its neighbours promise.
        """
        assert grids.size == 0 or grids.min() >= -_MOST
        group = _Group(grids.shape)
        for number, grid in enumerate(np.ascontiguousarray(grids)):
            used = int(self._state[_PLACE])
            needed = used + _MOST_BYTES_EACH * grid.size
            if needed > len(self._data):
                room = np.empty(2 * needed, np.uint8)
                room[:used] = self._data[:used]
                self._data = room
            group.run(grid, number == 0, self._data, self._state, reading=False)

    def finish(self) -> bytes:
        """All that was written."""
        place = int(self._state[_PLACE])
        last = -(-int(self._state[_LOW]) >> 24)  # the interval is 2^24 long at least
        whole = int.from_bytes(self._data[:place].tobytes(), "big")
        return ((whole << 8) + last).to_bytes(place + 1, "big")


class GridReader:
    """Reads what a `GridWriter` wrote, asked for the same shapes in the same order."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = np.frombuffer(bytes(data), np.uint8)
        code = int.from_bytes(bytes(data[:4]).ljust(4, b"\0"), "big")
        self._state = np.array([0, _FULL, code, 4], np.int64)

    def read(self, shape: tuple[int, int, int]) -> Grids:
        """The next group of (K, rows, columns) numbers; raises `DataError` where the data end before it."""
        grids = np.zeros(shape, np.int8)
        group = _Group(shape)
        for number, grid in enumerate(grids):
            group.run(grid, number == 0, self._data, self._state, reading=True)
            if self._state[_PLACE] > len(self._data) + 3:
                raise DataError("numbers that go on after the end of the data")
        return grids

    def finish(self) -> None:
        """Raise `DataError` unless all of the data was read."""
        if self._state[_PLACE] != len(self._data) + 3:
            raise DataError("numbers that end before the data do")


class _Group:
    """What grids of one shape learn from each other."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shared = np.full(_SHARED_LENGTH, _EVEN, np.int32)
        self.before = np.zeros(shape[1] * shape[2], np.int32)

    def run(
        self,
        grid: Grids,
        smooth: bool,
        data: npt.NDArray[np.uint8],
        state: npt.NDArray[np.int64],
        reading: bool,
    ) -> None:
        own = np.full(_OWN_LENGTH, _EVEN, np.int32)
        arrays = (grid, self.before, self.shared, own, data, state)
        _code(*grid.shape, int(smooth), int(reading), len(data), *(array.ctypes.data for array in arrays))


@kernel("int64", "int64", "int64", "int64", "int64", "int8*", "int32*", "int32*", "int32*", "uint8*", "int64*")
def _code(
    rows: int,
    columns: int,
    smooth: int,
    reading: int,
    num_bytes: int,
    grid: Any,
    before: Any,
    shared: Any,
    own: Any,
    data: Any,
    state: Any,
) -> None:
    """Write or read a grid of `rows` × `columns`; every turn of the inner loop is one decision.

    `before`: of each place, the sum of magnitudes in the grids before. `state`: the interval's low end and length, what
    was read less the low end, and the place in `data`.
    """
    low, span, code, place = state[_LOW], state[_SPAN], state[_CODE], state[_PLACE]
    for here in range(rows * columns):
        row, column = here // columns, here % columns
        left = _I(grid[here - 1]) if column > 0 else 0
        above = _I(grid[here - columns]) if row > 0 else 0
        corner = _I(grid[here - columns - 1]) if row > 0 and column > 0 else 0
        right = _I(grid[here - columns + 1]) if row > 0 and column + 1 < columns else 0
        guess, around = 0, 2 * abs(left) + 2 * abs(above) + abs(right) + abs(corner)
        if smooth:
            if row == 0:
                above = corner = right = left
            elif column == 0:
                left = corner = above
            if column + 1 == columns:
                right = above
            # the median edge detector of LOCO-I (Weinberger, Seroussi & Sapiro 2000)
            guess = max(min(left, above), min(max(left, above), left + above - corner))
            around = 2 * (abs(left - corner) + abs(above - corner) + abs(right - above))
        # nearly logarithmic
        level = min(around, 5)
        level += (around > 6) + (around > 9) + (around > 13) + (around > 19) + (around > 31) + (around > 63)
        own_level = min((level + 1) // 2, _OWN_LEVELS - 1)
        energy = min(before[here], 2) + (before[here] > 2)
        beside = 0 if left == guess else 1 if left > guess else 2
        over = 0 if above == guess else 1 if above > guess else 2
        signs = 3 * beside + over
        wanted = 0 if reading else _I(grid[here]) - guess
        magnitude = rest = step = 0
        negative = False
        stage = 0  # 0: is it zero, 1: its sign, 2: is it more, 3: the bits of the rest, 4: it is known
        while stage < 4:
            if stage == 0:
                first, second = level * _ENERGIES + energy, own_level * _ENERGIES + energy
                bit = wanted != 0
            elif stage == 1:
                first, second = _LEVELS * _ENERGIES + signs, _OWN_LEVELS * _ENERGIES + signs
                bit = wanted < 0
            elif stage == 2:
                first = _LEVELS * _ENERGIES + _SIGNS + level * _UNARY + magnitude - 1
                second = _OWN_LEVELS * _ENERGIES + _SIGNS + own_level * _UNARY + magnitude - 1
                bit = abs(wanted) > magnitude
            else:
                first, second = _SHARED_LENGTH - _REST + step, _OWN_LENGTH - _REST + step
                bit = (abs(wanted) - _UNARY - 1) >> (_REST - 1 - step) & 1 != 0
            one, two = _I(shared[first]), _I(own[second])
            # the chance of a no, of 65536
            bound = (span >> 16) * min(max((one >> 8) + (two >> 8) >> 1, 64), 65536 - 64)
            if reading:
                bit = code >= bound
            if bit:
                low += bound
                code -= bound
                span -= bound
            else:
                span = bound
            goal = 0 if bit else 65535
            used = one & 255
            shared[first] = (one >> 8) + (goal - (one >> 8)) // (used + 2) << 8 | min(used + 1, _SLOWEST)
            used = two & 255
            own[second] = (two >> 8) + (goal - (two >> 8)) // (used + 2) << 8 | min(used + 1, _SLOWEST)
            while span < 1 << 24:
                if reading:
                    code = (code << 8 & _FULL) | (_I(data[place]) if place < num_bytes else 0)
                else:
                    if low > _FULL:  # a carry into bytes already written
                        back = place - 1
                        while data[back] == 255:
                            data[back] = 0
                            back -= 1
                        data[back] += 1
                    data[place] = (low >> 24) & 255
                    low = (low & 0xFFFFFF) << 8
                place += 1
                span <<= 8
            if stage == 0:
                stage = 1 if bit else 4
            elif stage == 1:
                negative, magnitude, stage = bit, 1, 2
            elif stage == 2:
                magnitude += bit
                if not bit:
                    stage = 4
                elif magnitude > _UNARY:
                    stage = 3
            else:
                rest = 2 * rest + bit
                step += 1
                if step == _REST:
                    magnitude, stage = magnitude + rest, 4
        if reading:
            # of other data it may be any number
            grid[here] = min(max(guess - magnitude if negative else guess + magnitude, -_MOST), _MOST)
            if place > num_bytes + 3:
                break
        before[here] = min(before[here] + abs(_I(grid[here])), 1 << 20)
    state[_LOW], state[_SPAN], state[_CODE], state[_PLACE] = low, span, code, place
