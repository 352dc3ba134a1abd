"""Resize, crop, mirror and scale in one pass over an image, compiled by numba: bit for bit Pillow's resize.

The filter is Pillow's `BILINEAR` (a triangle, widened by the scale when shrinking) in Pillow's arithmetic, as
in `src/libImaging/Resample.c`: weights normalised in double precision and rounded to 22 fractional bits; each
row resized and rounded to 8 bits, then the columns of those. The sums are of whole numbers, so the result is
the same on every processor and for any number of threads. Less work is done: only the rows and columns of the
window are computed, a few resized rows stand in a ring instead of a whole image between the passes, and the
result goes straight into the float32 planes of a batch.

`load_kernel` compiles, or reads the machine code from numba's cache folder (`NUMBA_CACHE_DIR`, else
`__pycache__` beside this file, else the user's cache folder). Everything that is compiled into the kernel must
stand in this file: numba makes the kernel anew when this file changes, not when another does.
"""

from __future__ import annotations

import functools
import logging
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

from limla.loaders.geometry import Region, crop_start, resized_shape
from limla.types import Image, Preprocessing

_log = logging.getLogger(__name__)

Planes: TypeAlias = npt.NDArray[np.float32]
"""(3, H, W) float32 in [0, 1]: red, green, blue."""

_BITS = np.uint32(22)
"""Fractional bits of a weight: Pillow's PRECISION_BITS. 8 bits of a pixel and 2 to spare fill a word."""
_ONE = 1 << 22
_HALF = np.uint32(1 << 21)
_BYTE = np.uint32(255)
_SHIFT_1, _SHIFT_2 = np.uint32(8), np.uint32(16)

_word = np.uint32  # numba widens sums of 32-bit numbers to 64 bits unless told otherwise
_compiled = numba.njit(nogil=True, boundscheck=False)


def _weigh_pixels(typing: Any, source: Any, offset: Any, weights: Any, first: Any, taps: Any) -> Any:
    """One output pixel of a row: the sum of `taps` RGB pixels from byte `offset` on, times weights[first:].

    Returns R | G << 8 | B << 16, rounded and cut to 8 bits each; the top byte is of no use. Written in LLVM's
    language because numba finds no vector in it: the three colours, with the byte that follows them, are one
    vector of four. So it reads one byte beyond the last pixel.
    """
    signature = types.uint32(source, types.intp, weights, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, index = ir.IntType(32), ir.IntType(64)
        words, pixel = ir.VectorType(word, 4), ir.VectorType(ir.IntType(8), 4)
        pixels = arrayobj.make_array(signature.args[0])(context, builder, arguments[0]).data
        table = arrayobj.make_array(signature.args[2])(context, builder, arguments[2]).data
        total = cgutils.alloca_once_value(builder, words([int(_HALF)] * 4))
        with cgutils.for_range(builder, arguments[4]) as loop:
            place = builder.add(arguments[1], builder.mul(loop.index, index(3)))
            address = builder.bitcast(builder.gep(pixels, [place]), pixel.as_pointer())
            colours = builder.zext(builder.load(address, align=1), words)
            weight = builder.load(builder.gep(table, [builder.add(arguments[3], loop.index)]))
            lone = builder.insert_element(words(ir.Undefined), weight, word(0))
            weight = builder.shuffle_vector(lone, lone, words([0] * 4))
            builder.store(builder.add(builder.load(total), builder.mul(colours, weight)), total)
        rounded = builder.lshr(builder.load(total), words([int(_BITS)] * 4))
        largest = words([int(_BYTE)] * 4)
        cut = builder.select(builder.icmp_unsigned("<", rounded, largest), rounded, largest)
        return builder.bitcast(builder.trunc(cut, pixel), word)

    return signature, generate


_weigh: Any = intrinsic(_weigh_pixels)


@_compiled
def _triangle(length: int, new_length: int, first: int, count: int, mirror: int) -> Any:
    """Where outputs `first` to `first + count` of a resize from `length` to `new_length` look, and how much.

    Returns (count,) int64 starts, (count · taps,) uint32 weights and the number of taps; every window of `taps`
    lies within the source, filled up with zeros. `mirror` 1 turns the order of the outputs round.
    """
    scale = length / new_length
    support = max(scale, 1.0)
    most = min(2 * math.ceil(support) + 1, length)
    starts = np.empty(count, np.int64)
    wide = np.empty(count * most, np.uint32)
    raw = np.empty(most, np.float64)
    taps = 1
    for number in range(count):
        centre = (first + number + 0.5) * scale
        start = max(int(centre - support + 0.5), 0)
        num = min(int(centre + support + 0.5), length) - start
        total = 0.0
        for tap in range(num):
            raw[tap] = max(1.0 - abs((tap + start - centre + 0.5) * (1.0 / support)), 0.0)
            total += raw[tap]
        place = count - 1 - number if mirror == 1 else number
        starts[place] = start
        for tap in range(most):
            weight = np.uint32(0.5 + raw[tap] / total * _ONE) if tap < num else np.uint32(0)
            wide[place * most + tap] = weight
            if weight > 0:
                taps = max(taps, tap + 1)
    weights = np.empty(count * taps, np.uint32)
    for place in range(count):
        moved = max(starts[place] + taps - length, 0)
        starts[place] -= moved
        for tap in range(taps):
            weights[place * taps + tap] = wide[place * most + tap - moved] if tap >= moved else 0
    return starts, weights, taps


@_compiled
def _resize_row(source: Any, base: int, starts: Any, weights: Any, taps: int, line: Any) -> None:
    """Resize one row of pixels, which begins at byte `base`, into `line` (see `_weigh`)."""
    # a number of taps that the compiler knows makes straight code; these are all of usual photos
    if taps == 2:
        for x in range(len(line)):
            line[x] = _weigh(source, base + 3 * starts[x], weights, 2 * x, 2)
    elif taps == 3:
        for x in range(len(line)):
            line[x] = _weigh(source, base + 3 * starts[x], weights, 3 * x, 3)
    elif taps == 4:
        for x in range(len(line)):
            line[x] = _weigh(source, base + 3 * starts[x], weights, 4 * x, 4)
    else:
        for x in range(len(line)):
            line[x] = _weigh(source, base + 3 * starts[x], weights, taps * x, taps)


@_compiled
def _blend(ring: Any, first: int, weights: Any, at: int, taps: int, red: Any, green: Any, blue: Any) -> None:
    """Add up rows `first` to `first + taps` of the ring, times weights[at:]; write them as value / 255."""
    for x in range(len(red)):
        r, g, b = _HALF, _HALF, _HALF
        for tap in range(taps):
            pixel, weight = ring[first + tap, x], weights[at + tap]
            r = _word(r + (pixel & _BYTE) * weight)
            g = _word(g + ((pixel >> _SHIFT_1) & _BYTE) * weight)
            b = _word(b + ((pixel >> _SHIFT_2) & _BYTE) * weight)
        red[x] = np.float32(np.int32(r >> _BITS)) / np.float32(255)
        green[x] = np.float32(np.int32(g >> _BITS)) / np.float32(255)
        blue[x] = np.float32(np.int32(b >> _BITS)) / np.float32(255)


@_compiled
def _blend_rows(
    ring: Any, first: int, weights: Any, at: int, taps: int, red: Any, green: Any, blue: Any
) -> None:
    """`_blend` for any number of taps; see `_resize_row`."""
    if taps == 2:
        _blend(ring, first, weights, at, 2, red, green, blue)
    elif taps == 3:
        _blend(ring, first, weights, at, 3, red, green, blue)
    elif taps == 4:
        _blend(ring, first, weights, at, 4, red, green, blue)
    else:
        _blend(ring, first, weights, at, taps, red, green, blue)


def _resize(
    image: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    new_height: int,
    new_width: int,
    first_row: int,
    first_column: int,
    flip: int,
    planes: Any,
) -> None:
    num_rows, num_columns = planes.shape[1], planes.shape[2]
    rows, row_weights, taps = _triangle(height, new_height, first_row, num_rows, 0)
    columns, column_weights, column_taps = _triangle(width, new_width, first_column, num_columns, flip)
    source = image.reshape(image.size)
    stride = 3 * image.shape[1]
    # each row stands twice, `taps` apart, so that any `taps` neighbours follow one another
    ring = np.empty((2 * taps, num_columns), np.uint32)
    spare = np.empty(3 * width + 1, np.uint8)
    done = 0
    for y in range(num_rows):
        done = max(done, rows[y])
        while done < rows[y] + taps:
            pixels, base = source, (top + done) * stride + 3 * left
            if base + 3 * width >= len(source):  # `_weigh` reads a byte more than there is
                for byte in range(3 * width):
                    spare[byte] = source[base + byte]
                pixels, base = spare, 0
            line, twin = ring[done % taps], ring[done % taps + taps]
            _resize_row(pixels, base, columns, column_weights, column_taps, line)
            for x in range(num_columns):
                twin[x] = line[x]
            done += 1
        red, green, blue = planes[0, y], planes[1, y], planes[2, y]
        _blend_rows(ring, rows[y] % taps, row_weights, y * taps, taps, red, green, blue)


_SIGNATURE = types.void(types.uint8[:, :, ::1], *[types.int64] * 9, types.float32[:, :, ::1])
_compiling = threading.Lock()


def load_kernel() -> Callable[..., None]:
    """The compiled kernel, made or read from disk at the first call in a process; thread-safe.

    Loaders call it before they start threads, so that no image waits for the compiler.
    """
    with _compiling:
        return _load_kernel()


@functools.cache
def _load_kernel() -> Callable[..., None]:
    try:
        return numba.njit(_SIGNATURE, nogil=True, boundscheck=False, cache=True)(_resize)
    except (RuntimeError, OSError, EOFError, pickle.PickleError) as error:
        _log.info("the resize kernel is compiled in memory, since numba's cache cannot be used: %s", error)
        return numba.njit(_SIGNATURE, nogil=True, boundscheck=False)(_resize)


def center_planes(image: Image, preprocessing: Preprocessing, planes: Planes) -> None:
    """Resize the shorter side of an (H, W, 3) uint8 image; write the centre crop into (3, S, S) float32 planes.

    The values are those of `PIL.Image.resize(…, BILINEAR)` over 255. Releases the GIL.
    """
    height, width = image.shape[:2]
    new_height, new_width = resized_shape(height, width, preprocessing.resize_shorter)
    top, left = (crop_start(length, preprocessing.image_size) for length in (new_height, new_width))
    load_kernel()(_whole(image), 0, 0, height, width, new_height, new_width, top, left, 0, planes)


def region_planes(image: Image, region: Region, planes: Planes) -> None:
    """Cut a region, resize it to the planes' own (height, width) and mirror it if it says so; else as above."""
    height, width = planes.shape[1:]
    box = (region.top, region.left, region.height, region.width)
    load_kernel()(_whole(image), *box, height, width, 0, 0, int(region.flip), planes)


def _whole(image: Image) -> Image:
    """The image as the kernel takes it: dense and, since numba tells such arrays apart, writeable."""
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return image if image.flags.c_contiguous and image.flags.writeable else np.array(image, order="C")
