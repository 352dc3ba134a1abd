"""Resize, crop, mirror and scale in one pass over an image: Pillow's resize bit for bit, straight into a batch.

The filter is Pillow's `BILINEAR` (a triangle, widened by the scale when shrinking) in Pillow's arithmetic, as
in `src/libImaging/Resample.c`: weights normalised in double precision and rounded to 22 fractional bits; each
row resized and rounded to 8 bits, then the columns of those. The sums are of whole numbers, so the result is
the same on every processor and for any number of threads. Less work is done: only the rows and columns of the
window are computed, a few resized rows stand in a ring instead of a whole image between the passes, and the
result goes straight into the float32 planes of a batch. (Since Pillow 13 an image whose height shrinks much more
than its width, or which is over twice as tall as wide, has its columns resized first: up to one level apart.)
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from limla.kernels import kernel
from limla.loaders.geometry import Region, crop_start, resized_shape
from limla.types import Image, Preprocessing

Planes: TypeAlias = npt.NDArray[np.float32]
"""(3, H, W) float32 in [0, 1]: red, green, blue."""

_BITS = np.uint32(22)
"""Fractional bits of a weight: Pillow's PRECISION_BITS. 8 bits of a pixel and 2 to spare fill a word."""
_ONE = 1 << 22
_HALF = np.uint32(1 << 21)
_BYTE = np.uint32(255)
_SHIFT_1, _SHIFT_2 = np.uint32(8), np.uint32(16)
_FILTERS_KEPT = 2048
"""Random crops of photos of 500 pixels have about 1500 filters, of 5 KB each."""

_word = np.uint32  # numba widens sums of 32-bit numbers to 64 bits unless told otherwise
_parts: Any = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    """The parts of a kernel, made when numba compiles one: a process that finds it compiled imports no numba."""
    if name == "weigh":
        return _make_weigh()
    if name == "blend":
        return _make_blend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _make_weigh() -> Any:
    """weigh(source, offset, weights, first, taps) → R | G << 8 | B << 16 of one output pixel of a row.

    The sum of `taps` RGB pixels from byte `offset` on, times weights[first:], rounded and cut to 8 bits; the top
    byte is of no use. In LLVM's language, because numba finds no vector in it: the three colours, with the byte
    that follows them, are one vector of four. So it reads one byte beyond the last pixel.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.core.registry import cpu_target
    from numba.extending import intrinsic

    def weigh(typing: Any, source: Any, offset: Any, weights: Any, first: Any, taps: Any) -> Any:
        signature = types.uint32(source, types.intp, weights, types.intp, types.intp)
        word, index = ir.IntType(32), ir.IntType(64)
        words, pixel = ir.VectorType(word, 4), ir.VectorType(ir.IntType(8), 4)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pixels, start, table, column, count = arguments
            total = cgutils.alloca_once_value(builder, words([int(_HALF)] * 4))
            with cgutils.for_range(builder, count) as loop:
                place = builder.add(start, builder.mul(loop.index, index(3)))
                address = builder.bitcast(builder.gep(pixels, [place]), pixel.as_pointer())
                colours = builder.zext(builder.load(address, align=1), words)
                weight = builder.load(builder.gep(table, [builder.add(column, loop.index)]))
                lone = builder.insert_element(words(ir.Undefined), weight, word(0))
                weight = builder.shuffle_vector(lone, lone, words([0] * 4))
                builder.store(builder.add(builder.load(total), builder.mul(colours, weight)), total)
            rounded = builder.lshr(builder.load(total), words([int(_BITS)] * 4))
            largest = words([int(_BYTE)] * 4)
            cut = builder.select(builder.icmp_unsigned("<", rounded, largest), rounded, largest)
            return builder.bitcast(builder.trunc(cut, pixel), word)

        return signature, generate

    made = intrinsic(weigh)
    # numba collected what it knows when compilation began
    context: Any = cpu_target.typing_context
    context.refresh()
    return made


@functools.cache
def _make_blend() -> Any:
    import numba

    return numba.njit(inline="always")(_blend)


def _blend(
    ring: Any, first: int, weights: Any, at: int, taps: int, count: int, planes: Any, red: int, size: int
) -> None:
    """Add up `taps` rows of `count` pixels from ring[first] on, times weights[at:]; write value / 255 from `red` on.

    The other colours follow `size` values apart.
    """
    green, blue = red + size, red + 2 * size
    for x in range(count):
        r, g, b = _HALF, _HALF, _HALF
        for tap in range(taps):
            pixel, weight = ring[first + tap * count + x], weights[at + tap]
            r = _word(r + (pixel & _BYTE) * weight)
            g = _word(g + ((pixel >> _SHIFT_1) & _BYTE) * weight)
            b = _word(b + ((pixel >> _SHIFT_2) & _BYTE) * weight)
        planes[red + x] = np.float32(np.int32(r >> _BITS)) / np.float32(255)
        planes[green + x] = np.float32(np.int32(g >> _BITS)) / np.float32(255)
        planes[blue + x] = np.float32(np.int32(b >> _BITS)) / np.float32(255)


@kernel(*["int64"] * 7, "float64*", "uint32*", "int64*", "uint32*")
def _make_filter(
    length: int,
    new_length: int,
    first: int,
    count: int,
    mirror: int,
    antialias: int,
    most: int,
    raw: Any,
    wide: Any,
    starts: Any,
    weights: Any,
) -> None:
    """See `_filter`; `raw` (most,) and `wide` (count · most,) are working memory."""
    scale = length / new_length
    support = max(scale, 1.0) if antialias == 1 else 1.0
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
        starts[1 + place] = start
        for tap in range(most):
            weight = np.uint32(0.5 + raw[tap] / total * _ONE) if tap < num else np.uint32(0)
            wide[place * most + tap] = weight
            if weight > 0:
                taps = max(taps, tap + 1)
    for place in range(count):
        moved = max(starts[1 + place] + taps - length, 0)
        starts[1 + place] -= moved
        for tap in range(taps):
            weights[place * taps + tap] = wide[place * most + tap - moved] if tap >= moved else np.uint32(0)
    starts[0] = taps


@kernel(*["uint8*"], *["int64"] * 6, *["int64*", "uint32*"] * 2, "uint32*", "uint8*", "float32*")
def _resize(
    pixels: Any,
    num_bytes: int,
    stride: int,
    corner: int,
    row_bytes: int,
    num_rows: int,
    num_columns: int,
    rows: Any,
    row_weights: Any,
    columns: Any,
    column_weights: Any,
    ring: Any,
    spare: Any,
    planes: Any,
) -> None:
    """Resize the rectangle of rows of `row_bytes` that begins at byte `corner`; `ring`, `spare`: working memory."""
    taps, column_taps = rows[0], columns[0]
    done = 0
    for y in range(num_rows):
        done = max(done, rows[1 + y])
        while done < rows[1 + y] + taps:
            source, base = pixels, corner + done * stride
            if base + row_bytes >= num_bytes:  # `weigh` reads a byte more than there is
                for byte in range(row_bytes):
                    spare[byte] = pixels[base + byte]
                source, base = spare, 0
            line = done % taps * num_columns
            # a number of taps that the compiler knows makes straight code; these are all of usual photos
            if column_taps == 2:
                for x in range(num_columns):
                    ring[line + x] = _parts.weigh(source, base + 3 * columns[1 + x], column_weights, 2 * x, 2)
            elif column_taps == 3:
                for x in range(num_columns):
                    ring[line + x] = _parts.weigh(source, base + 3 * columns[1 + x], column_weights, 3 * x, 3)
            elif column_taps == 4:
                for x in range(num_columns):
                    ring[line + x] = _parts.weigh(source, base + 3 * columns[1 + x], column_weights, 4 * x, 4)
            else:
                for x in range(num_columns):
                    at = base + 3 * columns[1 + x]
                    ring[line + x] = _parts.weigh(source, at, column_weights, column_taps * x, column_taps)
            # each row stands twice, `taps` apart, so that any `taps` neighbours follow one another
            for x in range(line, line + num_columns):
                ring[x + taps * num_columns] = ring[x]
            done += 1
        first, red, size = rows[1 + y] % taps * num_columns, y * num_columns, num_rows * num_columns
        if taps == 2:
            _parts.blend(ring, first, row_weights, 2 * y, 2, num_columns, planes, red, size)
        elif taps == 3:
            _parts.blend(ring, first, row_weights, 3 * y, 3, num_columns, planes, red, size)
        elif taps == 4:
            _parts.blend(ring, first, row_weights, 4 * y, 4, num_columns, planes, red, size)
        else:
            _parts.blend(ring, first, row_weights, taps * y, taps, num_columns, planes, red, size)


class _Filter(NamedTuple):
    """Where each output looks, and how much: memory, the number of taps, and the addresses that kernels take.

    At `starts`: int64 taps, then the first source pixel of each output; at `weights`: uint32, `taps` for each
    output. Every window of `taps` lies within the source, filled up with zeros.
    """

    memory: tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]
    taps: int
    starts: int
    weights: int


@functools.lru_cache(maxsize=_FILTERS_KEPT)
def _filter(
    length: int, new_length: int, first: int, count: int, mirror: bool, antialias: bool = True
) -> _Filter:
    """The filter of outputs `first` to `first + count` of a resize; `mirror` turns their order round."""
    most = min(2 * math.ceil(max(length / new_length, 1.0)) + 1, length)
    raw, wide = np.empty(most, np.float64), np.empty(count * most, np.uint32)
    starts, weights = np.empty(1 + count, np.int64), np.empty(count * most, np.uint32)
    arrays = (raw, wide, starts, weights)
    numbers = (length, new_length, first, count, int(mirror), int(antialias), most)
    _make_filter(*numbers, *(array.ctypes.data for array in arrays))
    return _Filter((starts, weights), int(starts[0]), starts.ctypes.data, weights.ctypes.data)


def center_planes(image: Image, preprocessing: Preprocessing, planes: Planes, antialias: bool = True) -> None:
    """Resize the shorter side of an (H, W, 3) uint8 image; write the centre crop into (3, S, S) float32 planes.

    The values are those of `PIL.Image.resize(…, BILINEAR)`, rows first, over 255. Releases the GIL. Without
    `antialias` the triangle is not widened: each output comes from the two nearest pixels of either axis.
    """
    height, width, _ = image.shape
    side = preprocessing.image_size
    new_height, new_width = resized_shape(height, width, preprocessing.resize_shorter)
    rows = _filter(height, new_height, crop_start(new_height, side), side, False, antialias)
    columns = _filter(width, new_width, crop_start(new_width, side), side, False, antialias)
    _write(image, 0, 0, width, rows, columns, planes)


def region_planes(image: Image, region: Region, planes: Planes) -> None:
    """Cut a region, resize it to the planes' own (height, width) and mirror it if it says so; else as above."""
    _, height, width = planes.shape
    rows = _filter(region.height, height, 0, height, False)
    columns = _filter(region.width, width, 0, width, region.flip)
    _write(image, region.top, region.left, region.width, rows, columns, planes)


def load_kernels() -> None:
    """Compile the kernels, or read them from disk: before threads start, so that none waits for another's."""
    center_planes(np.zeros((1, 1, 3), np.uint8), Preprocessing(image_size=1), np.empty((3, 1, 1), np.float32))


def _write(
    image: Image, top: int, left: int, width: int, rows: _Filter, columns: _Filter, planes: Planes
) -> None:
    assert image.dtype == np.uint8
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    image = np.ascontiguousarray(image)
    stride = 3 * image.shape[1]
    _, num_rows, num_columns = planes.shape
    ring_bytes = 4 * 2 * rows.taps * num_columns
    memory = np.empty(ring_bytes + 3 * width + 1, np.uint8)
    address = memory.ctypes.data
    _resize(
        image.ctypes.data,
        image.size,
        stride,
        top * stride + 3 * left,
        3 * width,
        num_rows,
        num_columns,
        rows.starts,
        rows.weights,
        columns.starts,
        columns.weights,
        address,
        address + ring_bytes,
        planes.ctypes.data,
    )
