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

from typing import Any, NamedTuple

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
    colours, sums = np.empty(3 * columns, np.uint32), np.empty(2 * columns, np.uint32)
    pixels = np.ascontiguousarray(image)
    arrays = (_DITHER, colours, sums, *planes)
    _fill(pixels.ctypes.data, height, width, across, down, *(array.ctypes.data for array in arrays))
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


@kernel(
    "uint8*", "int64", "int64", "int64", "int64", "int64*", "uint32*", "uint32*", "uint8*", "uint8*", "uint8*"
)
def _fill(
    pixels: Any,
    height: int,
    width: int,
    across: int,
    down: int,
    dither: Any,
    colours: Any,
    sums: Any,
    y: Any,
    cb: Any,
    cr: Any,
) -> None:
    """Fill the planes from H · W · 3 pixels, one row of chroma at a time, so that all work stays in cache.

    `colours` and `sums` are room for the three colours of a row apart (as words: bytes take longer) and
    for its two sums of chroma.
    """
    eight, across_n, down_n = _N(8), _N(across), _N(down)
    last_row, last_column = _N(height) - _N(1), _N(width) - _N(1)
    rows = (last_row // eight + _N(1)) * eight
    columns = (last_column // (eight * across_n) + _N(1)) * eight * across_n
    chroma_columns = columns // across_n
    last_chroma_row = last_row // down_n
    green_at, blue_at = columns, _N(2) * columns
    for row in range(last_chroma_row + _N(1)):
        for column in range(_N(2) * columns):
            sums[column] = 0
        for step in range(down_n):
            this = row * down_n + step
            begin = min(this, last_row) * _N(width) * _N(3)
            for column in range(_N(width)):
                colours[column] = pixels[begin + _N(3) * column]
                colours[green_at + column] = pixels[begin + _N(3) * column + _N(1)]
                colours[blue_at + column] = pixels[begin + _N(3) * column + _N(2)]
            for column in range(_N(width), columns):
                colours[column] = colours[last_column]
                colours[green_at + column] = colours[green_at + last_column]
                colours[blue_at + column] = colours[blue_at + last_column]
            out = this * columns
            for column in range(columns):
                red, green = _W(colours[column]), _W(colours[green_at + column])
                blue = _W(colours[blue_at + column])
                luma = _W(19595) * red + _W(38470) * green + _W(7471) * blue + _W(32768)
                y[out + column] = _W(luma) >> _W(16)
                minus_luma = _W(8421375) - _W(11059) * red - _W(21709) * green + _W(32768) * blue
                sums[column] += _W(minus_luma) >> _W(16)
                minus_luma = _W(8421375) + _W(32768) * red - _W(27439) * green - _W(5329) * blue
                sums[columns + column] += _W(minus_luma) >> _W(16)
        out = row * chroma_columns
        if across == 1:
            for column in range(columns):
                cb[out + column] = sums[column]
                cr[out + column] = sums[columns + column]
        else:
            shift, bias = _W(down), _W(down - 1)  # of 2 · down samples
            for column in range(chroma_columns):
                left, up = _N(2) * column, bias + _W(column & _N(1))
                cb[out + column] = _W(sums[left] + sums[left + _N(1)] + up) >> shift
                left += columns
                cr[out + column] = _W(sums[left] + sums[left + _N(1)] + up) >> shift
    for place in range((last_chroma_row + _N(1)) * chroma_columns, rows // down_n * chroma_columns):
        cb[place] = cb[place - chroma_columns]
        cr[place] = cr[place - chroma_columns]
    for place in range((last_row + _N(1)) * columns, rows * columns):
        y[place] = y[place - columns]
    if across == 2 and columns - _N(width) >= eight:
        for top in range(_N(0), rows, eight):
            corner = top * columns + columns - _N(16)
            total = 0
            for row in range(eight):
                for column in range(eight):
                    total += y[corner + row * columns + column]
            for row in range(eight):
                for column in range(eight):
                    place = corner + row * columns + eight + column
                    y[place] = (total + dither[row * eight + column]) >> 6
