"""The learned codec's binary code, and how its bits are packed.

Each number of a position is written in balanced ternary, most significant digit first: each digit, -1, 0 or 1,
narrows the number's interval to the middle or an outer third. Two bits are a digit: whether it is other than 0, and
whether it is positive. A quality is how many of a position's digits are kept, in an order that training settled, so a
prefix of the code is the code of a lower quality.

Bits are entropy-coded digit by digit over all positions, first those of a chessboard's white squares, then the black
ones', at probabilities that training counted: by what is known of the same number, of its neighbours and of the other
numbers there. All of it is in whole numbers, so writer and reader agree on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import constriction
import numpy as np
import numpy.typing as npt

from limla.errors import DataError

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]

IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
"""Digits, (digits, rows, columns), -1 to 1."""

BASE = 3
PHASES = 2
OWN = 3
"""How much of the same number is known: nothing but 0, the smallest there is, more."""
LEANS = 7
"""Contexts of a sign: by how many steps the neighbours' mean is off, -3 to 3."""
SIGNS = 3
MOST_DIGITS_EACH = 7
SCALE = 1 << 15
_FAMILY = _stream.model.Bernoulli(perfect=False)
_LARGEST = (BASE**MOST_DIGITS_EACH - 1) // 2
_LENGTHS = np.array([value.bit_length() for value in range(_LARGEST + 1)], np.int64)
_LARGEST_LEAN = 15
_POSITIONS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Contexts:
    """The probabilities, and what chooses among them; for D digits, F features each and B bins.

    Attributes:
        features: (D, F): of `Known.feature`.
        weights: (D, PHASES, F): of the features' sum.
        edges: (D, PHASES, B - 1): rising; between them the sums of one bin.
        other: (D, PHASES, OWN, B): how probable a digit other than 0 is, in 1 / SCALE.
        positive: (D, PHASES, SIGNS, LEANS): how probable 1 rather than -1 is.
    """

    features: IntArray
    weights: IntArray
    edges: IntArray
    other: IntArray
    positive: IntArray


class Known:
    """What writer and reader both know of a band of positions, as digits come to be known.

    Args:
        channels: numbers of a position.
        rows, columns: of the band.
    """

    def __init__(self, channels: int, rows: int, columns: int) -> None:
        self.channels = channels
        self._shape = rows, columns
        self.values = np.zeros((channels, rows * columns), np.int64)  # in units of the finest digit
        self._sizes = np.zeros((channels, rows * columns), np.int64)
        self._around = np.zeros((channels, rows * columns), np.int64)
        black = (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 1
        self.phases = tuple(np.flatnonzero(black.ravel() == phase) for phase in (False, True))

    def update(self, channel: int, places: IntArray, digits: IntArray, power: int) -> None:
        """Take in digits of a channel at some positions."""
        self.values[channel, places] += digits * BASE**power
        sizes = _LENGTHS[np.abs(self.values[channel])]
        self._sizes[channel] = sizes
        self._around[channel] = _sum_around(sizes.reshape(self._shape), "constant").ravel()

    def lean(self, channel: int, power: int) -> IntArray:
        """By how many quarters of a step the mean of a number's neighbours differs from what is known of it."""
        values = self.values[channel].reshape(self._shape)
        off = (_sum_around(values, "edge") - 8 * values).ravel()
        return np.clip((off + BASE**power) // (2 * BASE**power), -_LARGEST_LEAN, _LARGEST_LEAN)

    def feature(self, number: int, places: IntArray, lean: IntArray) -> IntArray:
        """0 to C - 1: the length in binary of a channel's number; then the sum of its neighbours'; then |lean|."""
        if number < self.channels:
            return self._sizes[number, places]
        if number < 2 * self.channels:
            return self._around[number - self.channels, places]
        return np.abs(lean[places])


def _sum_around(values: IntArray, beyond: str) -> IntArray:
    """Of each position's eight neighbours; beyond the grid are zeros ("constant") or its edge ("edge")."""
    padded = np.pad(values, 1, mode=beyond)  # pyright: ignore[reportArgumentType, reportCallIssue]
    across = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return across[:-2] + across[1:-1] + across[2:] - values


class Coder(Protocol):
    """Writes bits, or reads them."""

    def bits(self, wanted: IntArray | None, probabilities: IntArray) -> IntArray:
        """Write `wanted` (0 or 1), or read as many; the probabilities are of 1, in 1 / SCALE."""
        ...


class BitWriter:
    """A range coder's writing end."""

    def __init__(self) -> None:
        self._encoder = _stream.queue.RangeEncoder()

    def bits(self, wanted: IntArray | None, probabilities: IntArray) -> IntArray:
        """See `Coder.bits`."""
        assert wanted is not None
        if len(wanted):
            self._encoder.encode(wanted.astype(np.int32), _FAMILY, probabilities / SCALE)
        return wanted

    def finish(self) -> bytes:
        """All that was written: little-endian words, without zeros at the end, which a reader takes for granted."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class BitReader:
    """A range coder's reading end; past the end of its data, it reads zeros.

    Raises `DataError` for some of what no writer wrote; the rest gives some bits.
    """

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % 4)
        self._decoder = _stream.queue.RangeDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))

    def bits(self, wanted: IntArray | None, probabilities: IntArray) -> IntArray:
        """See `Coder.bits`."""
        del wanted
        if not len(probabilities):
            return np.zeros(0, np.int64)
        try:
            found = self._decoder.decode(_FAMILY, probabilities / SCALE)
        except AssertionError as error:  # constriction's word for it
            raise DataError("an autoencoder file whose code is damaged") from error
        return found.astype(np.int64)


class BinaryCode:
    """How the digits of a position are ordered and coded.

    Args:
        order: for each digit (channel, power of three).
        lengths: (NUM_QUALITIES + 1,): how many digits a quality keeps.
        contexts: of the digits.
    """

    def __init__(self, order: tuple[tuple[int, int], ...], lengths: IntArray, contexts: Contexts) -> None:
        self.order = order
        self.lengths = lengths
        self.contexts = contexts
        self.channels = 1 + max(channel for channel, _ in order)
        digits = np.zeros(self.channels, np.int64)
        for channel, power in order:
            digits[channel] = max(digits[channel], power + 1)
        self._limits = (BASE**digits - 1) // 2

    def digits(self, numbers: npt.NDArray[np.float64], step: int, quality: int) -> Codes:
        """The code of (rows, columns, C) numbers, at a step of the finest digit."""
        finest = np.floor((numbers + step // 2) / step).astype(np.int64)
        finest = np.clip(finest, -self._limits, self._limits).transpose(2, 0, 1)
        kept = self.order[: self.lengths[quality]]
        found = np.zeros((len(kept), *finest.shape[1:]), np.int8)
        for place, (channel, power) in enumerate(kept):
            coarser, finer = (_coarsened(finest[channel], by) for by in (power + 1, power))
            found[place] = finer - BASE * coarser
        return found

    def numbers(self, digits: Codes, step: int) -> npt.NDArray[np.float64]:
        """What is known of the numbers by their first digits, (rows, columns, C), whole."""
        found = np.zeros((self.channels, *digits.shape[1:]))
        for plane, (channel, power) in zip(digits, self.order, strict=False):
            found[channel] += plane * float(step * BASE**power)
        return np.ascontiguousarray(found.transpose(1, 2, 0))

    def write(self, digits: Codes) -> bytes:
        """The bits of digits, packed."""
        writer = BitWriter()
        for first, last in self._bands(*digits.shape[1:]):
            self._walk(writer, digits[:, first:last])
        return writer.finish()

    def read(self, data: bytes, quality: int, rows: int, columns: int) -> Codes:
        """The digits that were written; raises `DataError` or gives other digits for damaged data.

        Any data may be a code, none at all too: an image of one gray is packed into nothing. What bounds memory and
        time is the grid, not the length of the data.
        """
        reader = BitReader(data)
        digits = np.zeros((int(self.lengths[quality]), rows, columns), np.int8)
        for first, last in self._bands(rows, columns):
            self._walk(reader, digits[:, first:last])
        return digits

    def _walk(self, coder: Coder, digits: Codes) -> None:
        """Write digits, or read into them: every band begins knowing nothing."""
        num_digits, rows, columns = digits.shape
        known = Known(self.channels, rows, columns)
        for digit in range(num_digits):
            plane = digits[digit].reshape(-1).astype(np.int64)
            for phase, places in enumerate(known.phases):
                if len(places):
                    plane[places] = self._code(coder, known, digit, phase, places, plane[places])
            digits[digit] = plane.reshape(rows, columns)

    def _code(
        self, coder: Coder, known: Known, digit: int, phase: int, places: IntArray, wanted: IntArray
    ) -> IntArray:
        channel, power = self.order[digit]
        contexts = self.contexts
        lean = known.lean(channel, power)
        score = sum_of_features(known, contexts.features[digit], contexts.weights[digit, phase], places, lean)
        bins = np.searchsorted(contexts.edges[digit, phase], score, side="right")
        own = known.values[channel, places]
        probable = contexts.other[digit, phase, own_context(own, power), bins]
        other = coder.bits(np.abs(wanted), probable)
        signed = np.flatnonzero(other)
        probable = contexts.positive[digit, phase, np.sign(own[signed]) + 1, lean_context(lean[places[signed]])]
        positive = coder.bits((wanted[signed] > 0).astype(np.int64), probable)
        found = np.zeros(len(places), np.int64)
        found[signed] = 2 * positive - 1
        known.update(channel, places, found, power)
        return found

    @staticmethod
    def _bands(rows: int, columns: int) -> Iterator[tuple[int, int]]:
        height = max(1, _POSITIONS_AT_ONCE // columns)
        for first in range(0, rows, height):
            yield first, min(rows, first + height)


def sum_of_features(
    known: Known, features: IntArray, weights: IntArray, places: IntArray, lean: IntArray
) -> IntArray:
    """The sum that chooses a bin, for each place."""
    score = np.zeros(len(places), np.int64)
    for number, weight in zip(features.tolist(), weights.tolist(), strict=True):
        score += weight * known.feature(number, places, lean)
    return score


def own_context(values: IntArray, power: int) -> IntArray:
    """0 to OWN - 1, of what is known of a number before its digit of `power`."""
    return np.minimum(np.abs(values) // BASE ** (power + 1), OWN - 1)


def lean_context(lean: IntArray) -> IntArray:
    """0 to LEANS - 1."""
    return np.clip((lean + 2) // 4, -(LEANS // 2), LEANS // 2) + LEANS // 2


def _coarsened(finest: IntArray, power: int) -> IntArray:
    """Numbers without their last digits of balanced ternary: the nearest multiples of 3**power, divided by it."""
    return (finest + (BASE**power - 1) // 2) // BASE**power
