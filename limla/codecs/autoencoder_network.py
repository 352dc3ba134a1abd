"""The learned codec's two networks, computed in whole numbers: the same everywhere, however many threads there are.

Weights and values are whole multiples of a small unit, and sums of their products stay below 2**53, where float64 is
exact in whatever order it adds (the idea of Ballé, Johnston and Minnen, ICLR 2019). So an encoder's bits and a
decoder's pixels depend on no library, thread count or machine, and torch is needed to train alone.

An image of any size is a grid of 8 × 8 patches, the last row and column repeated where they are not whole; bands of a
few rows of patches at a time bound the memory, and give what the whole image would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.types import Image

BLOCK = 8
PATCH = 3 * BLOCK * BLOCK
NUM_QUALITIES = 64
CENTRE = 127.5
UNIT = 64.0
"""Levels of gray in what the networks call 1."""

VALUE_BITS = 10
WEIGHT_BITS = 14
LARGEST_VALUE = 1 << 20
LARGEST_WEIGHT = 1 << 17
LARGEST_BIAS = 1 << 50
MOST_INPUTS = 9 * 512
"""Of one sum: 9 × 512 products of 2**37 at most, and the bias, are less than 2**53."""
_HALF = float(1 << (WEIGHT_BITS - 1))
_WHOLE = float(1 << WEIGHT_BITS)
_PER_GRAY = (1 << VALUE_BITS) / UNIT
_POSITIONS_AT_ONCE = 1 << 14

Numbers = npt.NDArray[np.float64]
"""Whole numbers, in float64 for the sake of its matrix products."""

KERNELS = {
    "analyse_patch": 1,
    "analyse_in": 3,
    "analyse_out": 3,
    "synthesise_patch": 1,
    "synthesise_in": 3,
    "synthesise_mid": 3,
    "synthesise_add": 3,
    "synthesise_out": 3,
}
"""Layer → side of its kernel."""


def is_gray(image: Image) -> bool:
    """Whether an (H, W, 3) image has no colour."""
    return np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 1], image[..., 2])


def without_colour(image: Image) -> Image:
    """An (H, W, 3) uint8 image whose channels are the mean of the three; in place."""
    image[...] = ((image.sum(axis=2, dtype=np.uint16) + 1) // 3).astype(np.uint8)[..., None]
    return image


def grid_shape(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of code positions of an image."""
    return -(-height // BLOCK), -(-width // BLOCK)


@dataclass(frozen=True)
class Layer:
    """A convolution: weights (k, k · in, out) and biases (out,), whole numbers in float64."""

    weights: Numbers
    biases: Numbers

    @property
    def kernel(self) -> int:
        """k."""
        return len(self.weights)


@dataclass(frozen=True)
class _Band:
    """Rows `first` to `first + len(values)` of a grid: values (rows, columns, channels)."""

    values: Numbers
    first: int


class WholeNetwork:
    """The encoder's and the decoder's networks.

    Args:
        layers: all of `KERNELS`.
        known: (NUM_QUALITIES + 1, width): what the decoder's first layer adds at each quality.
    """

    def __init__(self, layers: Mapping[str, Layer], known: Numbers) -> None:
        self._layers = layers
        self._known = known

    def analyse(self, image: Image) -> Iterator[tuple[int, Numbers]]:
        """The numbers of an (H, W, 3) uint8 image: bands of (rows, columns, C), each with its first row."""
        rows, columns = grid_shape(*image.shape[:2])
        for first, last in _bands(rows, columns):
            low, high = max(0, first - 2), min(rows, last + 2)
            patches = _Band(_patches(image, low, high, columns), low)
            beyond = self._layer("analyse_out", _relu(self._layer("analyse_in", patches, rows)), rows)
            own = self._layer("analyse_patch", _cut(patches, first, last), rows)
            yield first, _bounded(own.values + _cut(beyond, first, last).values)

    def synthesise(self, numbers: Callable[[int, int], Numbers], quality: int, image: Image) -> None:
        """Fill an (H, W, 3) uint8 image.

        Args:
            numbers: what is known at `quality` of some rows, the first and that after the last: (rows, columns, C).
            quality: 1 to NUM_QUALITIES.
            image: every value of it is set.
        """
        rows, columns = grid_shape(*image.shape[:2])
        for first, last in _bands(rows, columns):
            low, high = max(0, first - 4), min(rows, last + 4)
            known = _Band(_bounded(numbers(low, high)), low)
            hidden = _relu(self._layer("synthesise_in", known, rows, self._known[quality]))
            added = self._layer("synthesise_add", _relu(self._layer("synthesise_mid", hidden, rows)), rows)
            least, most = added.first, added.first + len(added.values)
            values = _bounded(_cut(hidden, least, most).values + added.values)
            beyond = self._layer("synthesise_out", _relu(_Band(values, least)), rows)
            own = self._layer("synthesise_patch", _cut(known, first, last), rows)
            _place(own.values + _cut(beyond, first, last).values, image, first)

    def _layer(self, name: str, band: _Band, rows: int, bias: Numbers | None = None) -> _Band:
        layer = self._layers[name]
        values, first = band.values, band.first
        if layer.kernel == 3:
            values, first = _columns_beside(band, rows)
        num_rows = len(values) - layer.kernel + 1
        columns = values.shape[1]
        total = np.zeros((num_rows * columns, layer.weights.shape[2]))
        for row, weights in enumerate(layer.weights):
            total += values[row : row + num_rows].reshape(num_rows * columns, -1) @ weights
        total += layer.biases
        if bias is not None:
            total += bias
        total += _HALF
        total /= _WHOLE
        np.floor(total, out=total)
        return _Band(_bounded(total).reshape(num_rows, columns, -1), first)


def _columns_beside(band: _Band, rows: int) -> tuple[Numbers, int]:
    """Each position's values with those left and right of it; rows of zeros around the grid, where the band ends there.

    Returns them with the first row of what a 3 × 3 layer makes of them.
    """
    height, width, channels = band.values.shape
    above, below = int(band.first == 0), int(band.first + height == rows)
    beside = np.zeros((height + above + below, width, 3, channels))
    inside = beside[above : above + height]
    inside[:, :, 1] = band.values
    inside[:, 1:, 0] = band.values[:, :-1]
    inside[:, :-1, 2] = band.values[:, 1:]
    return beside.reshape(len(beside), width, 3 * channels), band.first + 1 - above


def _bands(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    height = max(1, _POSITIONS_AT_ONCE // columns)
    for first in range(0, rows, height):
        yield first, min(rows, first + height)


def _cut(band: _Band, first: int, last: int) -> _Band:
    return _Band(band.values[first - band.first : last - band.first], first)


def _relu(band: _Band) -> _Band:
    return _Band(np.maximum(band.values, 0), band.first)


def _bounded(values: Numbers) -> Numbers:
    return np.clip(values, -LARGEST_VALUE, LARGEST_VALUE, out=values)


def _patches(image: Image, first: int, last: int, columns: int) -> Numbers:
    """(last - first, columns, PATCH): the rows of patches of an image, centred."""
    cut = image[first * BLOCK : last * BLOCK]
    missing = ((last - first) * BLOCK - cut.shape[0], columns * BLOCK - cut.shape[1])
    if any(missing):
        cut = np.pad(cut, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    # channel, row, column within the patch: the order of torch's pixel_unshuffle
    split = cut.reshape(last - first, BLOCK, columns, BLOCK, 3).transpose(0, 2, 4, 1, 3)
    return (split.astype(np.float64).reshape(last - first, columns, PATCH) - CENTRE) * _PER_GRAY


def _place(values: Numbers, image: Image, first: int) -> None:
    """Write rows of patches into an image, without what goes beyond its edge."""
    rows, columns, _ = values.shape
    gray = np.clip(np.floor((values + _PER_GRAY * (CENTRE + 0.5)) / _PER_GRAY), 0, 255).astype(np.uint8)
    split = gray.reshape(rows, columns, 3, BLOCK, BLOCK).transpose(0, 3, 1, 4, 2)
    target = image[first * BLOCK : (first + rows) * BLOCK]
    target[...] = split.reshape(rows * BLOCK, columns * BLOCK, 3)[: target.shape[0], : target.shape[1]]
