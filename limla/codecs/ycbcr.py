"""RGB → the padded Y, Cb and Cr planes of a JPEG, made once for all qualities: what libjpeg-turbo makes inside.

The arithmetic is libjpeg's: JFIF's matrix in 16 fractional bits (jccolor.c); chroma halved by the mean of 2 or 4
samples, rounded up and down in turn along a row (jcsample.c); the last pixel and the last row repeated to whole
blocks (jcprepct.c).

One thing cannot be said in pixels. Where chroma is halved and the width leaves the last pair of luma blocks half
empty, libjpeg puts in a block of its own: the mean of its left neighbour and no detail (jccoefct.c). Here that
block gets the neighbour's sum, spread by an ordered dither: each pixel is one of two neighbouring levels, so the
mean is exact at any quality, and what detail that makes is quantised to nothing up to `MAX_QUALITY`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from limla.kernels import kernel
from limla.types import Image

MAX_QUALITY = 93
"""The highest JPEG quality at which every dithered block loses its detail: all 64 of them were tried."""
BLOCK = 8
Plane = npt.NDArray[np.uint8]

_N = np.uint64  # indices
_W = np.uint32  # pixels: numba widens sums of 32-bit numbers to 64 bits unless told otherwise


class Planes(NamedTuple):
    """uint8 planes: `y` (rows, columns) in whole blocks; `cb` and `cr` as large, or halved."""

    y: Plane
    cb: Plane
    cr: Plane


def to_planes(image: Image, across: int, down: int) -> Planes:
    """The planes of an (H, W, 3) uint8 image.

    Args:
        image: RGB.
        across, down: luma samples per chroma sample: (1, 1) for 4:4:4, (2, 1) for 4:2:2, (2, 2) for 4:2:0.

    The luma plane has whole blocks (`padded_sides`). Releases the GIL.
    """
    height, width = image.shape[:2]
    rows, columns = padded_sides(height, width, across)
    shape = rows // down, columns // across
    planes = Planes(np.empty((rows, columns), np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint8))
    colours, sums = np.empty((3, columns), np.uint8), np.empty((2, columns), np.uint32)
    # numba would compile once more for arrays that may not be written
    pixels = np.require(image, requirements=["C", "W"]).reshape(-1)
    _fill(pixels, height, width, across, down, _DITHER, colours, sums, *planes)
    return planes


def padded_sides(height: int, width: int, across: int) -> tuple[int, int]:
    """Rows in whole blocks, and columns in whole blocks of chroma."""
    return -(-height // BLOCK) * BLOCK, -(-width // (BLOCK * across)) * BLOCK * across


def _ordered_dither() -> npt.NDArray[np.int64]:
    """(8, 8) thresholds 0 to 63 (Bayer 1973): (sum + threshold) >> 6 over a block has just that sum."""
    table = np.zeros((1, 1), np.int64)
    while len(table) < BLOCK:
        table = np.block([[4 * table, 4 * table + 2], [4 * table + 3, 4 * table + 1]])
    return table


_DITHER = _ordered_dither()


@kernel
def _fill(
    pixels: npt.NDArray[np.uint8],
    height: int,
    width: int,
    across: int,
    down: int,
    dither: npt.NDArray[np.int64],
    colours: npt.NDArray[np.uint8],
    sums: npt.NDArray[np.uint32],
    y: Plane,
    cb: Plane,
    cr: Plane,
) -> None:
    """Fill the planes from H · W · 3 contiguous pixels, one row of chroma at a time, so that all work stays in cache.

    `colours` (3, columns) and `sums` (2, columns) are room for the colours of a row apart and its sums of chroma.
    """
    rows, columns = _N(y.shape[0]), _N(y.shape[1])
    last_row, last_column = _N(height) - _N(1), _N(width) - _N(1)
    last_chroma_row = last_row // _N(down)
    for row in range(last_chroma_row + _N(1)):
        for column in range(columns):
            sums[_N(0), column] = 0
            sums[_N(1), column] = 0
        for step in range(_N(down)):
            this = row * _N(down) + step
            begin = min(this, last_row) * _N(width) * _N(3)
            for column in range(_N(width)):
                colours[_N(0), column] = pixels[begin + _N(3) * column]
                colours[_N(1), column] = pixels[begin + _N(3) * column + _N(1)]
                colours[_N(2), column] = pixels[begin + _N(3) * column + _N(2)]
            for column in range(_N(width), columns):
                for colour in range(_N(3)):
                    colours[colour, column] = colours[colour, last_column]
            for column in range(columns):
                red, green, blue = (
                    _W(colours[_N(0), column]),
                    _W(colours[_N(1), column]),
                    _W(colours[_N(2), column]),
                )
                y[this, column] = _W(_W(19595) * red + _W(38470) * green + _W(7471) * blue + _W(32768)) >> _W(
                    16
                )
                sums[_N(0), column] += _W(
                    _W(8421375) - _W(11059) * red - _W(21709) * green + _W(32768) * blue
                ) >> _W(16)
                sums[_N(1), column] += _W(
                    _W(8421375) + _W(32768) * red - _W(27439) * green - _W(5329) * blue
                ) >> _W(16)
        if across == 1:
            for column in range(columns):
                cb[row, column] = sums[_N(0), column]
                cr[row, column] = sums[_N(1), column]
        else:
            shift, bias = _W(down), _W(down - 1)  # of 2 · down samples
            for column in range(columns // _N(2)):
                left, up = _N(2) * column, bias + _W(column & _N(1))
                cb[row, column] = _W(sums[_N(0), left] + sums[_N(0), left + _N(1)] + up) >> shift
                cr[row, column] = _W(sums[_N(1), left] + sums[_N(1), left + _N(1)] + up) >> shift
    for row in range(last_chroma_row + _N(1), _N(cb.shape[0])):
        for column in range(_N(cb.shape[1])):
            cb[row, column] = cb[last_chroma_row, column]
            cr[row, column] = cr[last_chroma_row, column]
    for row in range(last_row + _N(1), rows):
        for column in range(columns):
            y[row, column] = y[last_row, column]
    if across == 2 and columns - _N(width) >= _N(8):
        left = columns - _N(16)
        for top in range(_N(0), rows, _N(8)):
            total = 0
            for row in range(_N(8)):
                for column in range(_N(8)):
                    total += y[top + row, left + column]
            for row in range(_N(8)):
                for column in range(_N(8)):
                    y[top + row, left + _N(8) + column] = (total + dither[row, column]) >> 6
