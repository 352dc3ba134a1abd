"""Y, Cb and Cr planes with halved chroma → RGB: the way back from `limla.codecs.ycbcr`, in libjpeg's arithmetic.

Chroma is upsampled by libjpeg's triangle filter (jdsample.c, "fancy upsampling": 9/16, 3/16, 3/16 and 1/16 of the four
nearest samples), so that a video codec's pictures and JPEG's differ by the codec alone; the matrix is JFIF's inverse
in 16 fractional bits (jdcolor.c).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from limla.codecs.ycbcr import Planes
from limla.kernels import kernel
from limla.types import Image

_I = np.int64


def to_rgb(planes: Planes, height: int, width: int) -> Image:
    """The (height, width, 3) uint8 RGB image in the top left corner of 4:2:0 planes.

    Args:
        planes: uint8, rows apart by any number of bytes, samples of a row by one; `y` has `height` rows and `width`
            columns at least, `cb` and `cr` half as many, rounded up. What is beyond is not looked at.
        height, width: pixels.

    Releases the GIL.
    """
    rows, columns = -(-height // 2), -(-width // 2)
    assert planes.y.shape >= (height, width)
    for plane in (planes.cb, planes.cr):
        assert plane.shape[0] >= rows
        assert plane.shape[1] >= columns
    assert planes.y.shape[1] >= width
    assert all(plane.dtype == np.uint8 and plane.strides[1] == 1 for plane in planes)
    image = np.empty((height, width, 3), np.uint8)
    sums = np.empty(2 * columns, np.int32)
    lines = (plane.strides[0] for plane in planes)
    _fill(*(plane.ctypes.data for plane in planes), *lines, height, width, sums.ctypes.data, image.ctypes.data)
    return image


@kernel("uint8*", "uint8*", "uint8*", "int64", "int64", "int64", "int64", "int64", "int32*", "uint8*")
def _fill(
    y: Any,
    cb: Any,
    cr: Any,
    y_line: int,
    cb_line: int,
    cr_line: int,
    height: int,
    width: int,
    sums: Any,
    pixels: Any,
) -> None:
    """Fill H · W · 3 pixels; `sums` is room for a row of both chromas, three parts the nearer row, one the farther."""
    rows, columns = (height + 1) // 2, (width + 1) // 2
    for row in range(height):
        near = row // 2
        far = min(max(near - 1 + 2 * (row & 1), 0), rows - 1)
        for column in range(columns):
            sums[column] = _I(3) * cb[near * cb_line + column] + cb[far * cb_line + column]
            sums[columns + column] = _I(3) * cr[near * cr_line + column] + cr[far * cr_line + column]
        for column in range(width):
            this, odd = column // 2, column & 1
            other = min(max(this - 1 + 2 * odd, 0), columns - 1)
            blue_part = ((3 * sums[this] + sums[other] + 8 - odd) >> 4) - 128
            red_part = ((3 * sums[columns + this] + sums[columns + other] + 8 - odd) >> 4) - 128
            luma = _I(y[row * y_line + column])
            red = luma + ((91881 * red_part + 32768) >> 16)
            green = luma + ((-22554 * blue_part - 46802 * red_part + 32768) >> 16)
            blue = luma + ((116130 * blue_part + 32768) >> 16)
            place = 3 * (row * width + column)
            pixels[place] = min(max(red, 0), 255)
            pixels[place + 1] = min(max(green, 0), 255)
            pixels[place + 2] = min(max(blue, 0), 255)
