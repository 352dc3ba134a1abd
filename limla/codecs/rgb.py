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

_N = np.uint64  # indices
_W = np.int32  # samples: numba widens sums of 32-bit numbers to 64 bits unless told otherwise


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
    sums = np.empty(5 * columns, np.int32)
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
    """Fill H · W · 3 pixels.

    `sums` is room for one row: of both chromas, three parts the nearer row and one the farther, then the same with
    twice the columns.
    """
    one, two, three = _N(1), _N(2), _N(3)
    last_row, last = (_N(height) - one) // two, (_N(width) - one) // two
    columns = last + one
    for row in range(_N(height)):
        near = row // two
        far = min(near + one, last_row) if row & one else max(near, one) - one
        blue, red = columns, columns + two * columns
        for chroma, line, wide in ((cb, _N(cb_line), blue), (cr, _N(cr_line), red)):
            nearer, farther = near * line, far * line
            for column in range(columns):
                sums[column] = _W(3) * chroma[nearer + column] + chroma[farther + column]
            for column in range(columns):
                before = sums[max(column, one) - one]
                after = sums[min(column + one, last)]
                sums[wide + two * column] = (_W(3) * sums[column] + before + _W(8)) >> _W(4)
                sums[wide + two * column + one] = (_W(3) * sums[column] + after + _W(7)) >> _W(4)
        begin = row * _N(y_line)
        out = three * row * _N(width)
        for column in range(_N(width)):
            luma = _W(y[begin + column])
            blue_part = _W(sums[blue + column] - _W(128))
            red_part = _W(sums[red + column] - _W(128))
            place = out + three * column
            red_sum = luma + (_W(_W(91881) * red_part + _W(32768)) >> _W(16))
            green_sum = luma + (_W(_W(32768) - _W(22554) * blue_part - _W(46802) * red_part) >> _W(16))
            blue_sum = luma + (_W(_W(116130) * blue_part + _W(32768)) >> _W(16))
            pixels[place] = min(max(_W(red_sum), _W(0)), _W(255))
            pixels[place + one] = min(max(_W(green_sum), _W(0)), _W(255))
            pixels[place + two] = min(max(_W(blue_sum), _W(0)), _W(255))
