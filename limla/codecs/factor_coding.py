"""Lossless coding of the factors of `limla.codecs.integer_factors`, in two ways.

"deflate" is what the method was published with: the int8 entries through raw deflate (RFC 1951), V of every plane, then
U of every plane; a component's entries stand together, patches in rows from the top left.

"adaptive" knows that each component of U is a small picture, the first one smooth and the others sparse, and each one
of V a patch: they go through the range coder of `limla.codecs.grid_coding`, plane by plane, V first.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from limla.codecs.grid_coding import GridReader, GridWriter
from limla.codecs.integer_factors import HIGHEST, LOWEST, WIDTH, Factor, Factors
from limla.errors import DataError

CODINGS = ("deflate", "adaptive")
"""In a file, the place of its coding in this list."""
DEFLATE_LEVEL = 9
_RAW_DEFLATE, _MEMORY = -15, 9
_PATCH_SIDE = 8


class Shape(NamedTuple):
    """Of the factors of a plane: components, and the patches' rows and columns."""

    rank: int
    rows: int
    columns: int

    @property
    def num_patches(self) -> int:
        """Columns of the factor `u`."""
        return self.rows * self.columns


def write_factors(planes: Sequence[Factors], shapes: Sequence[Shape], coding: str) -> bytes:
    """The factors of each plane, in one of `CODINGS`."""
    if coding == "deflate":
        deflate = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY)
        entries = [v for _, v in planes] + [u for u, _ in planes]
        return b"".join([*(deflate.compress(factor.tobytes()) for factor in entries), deflate.flush()])
    writer = GridWriter()
    for (u, v), shape in zip(planes, shapes, strict=True):
        writer.write(v.reshape(shape.rank, _PATCH_SIDE, _PATCH_SIDE))
        writer.write(u.reshape(shape))
    return writer.finish()


def read_factors(data: memoryview, shapes: Sequence[Shape], coding: str) -> list[Factors]:
    """What `write_factors` wrote of factors of these shapes; raises `DataError` for anything else.

    No data make more numbers than the shapes say.
    """
    if coding == "deflate":
        return _inflate(data, shapes)
    reader = GridReader(data)
    planes: list[Factors] = []
    for shape in shapes:
        v = reader.read((shape.rank, _PATCH_SIDE, _PATCH_SIDE)).reshape(shape.rank, WIDTH)
        u = reader.read(shape).reshape(shape.rank, shape.num_patches)
        _check(v)
        _check(u)
        planes.append(Factors(u, v))
    reader.finish()
    return planes


def _inflate(data: memoryview, shapes: Sequence[Shape]) -> list[Factors]:
    lengths = [shape.rank * WIDTH for shape in shapes] + [shape.rank * shape.num_patches for shape in shapes]
    num_bytes = sum(lengths)
    inflate = zlib.decompressobj(_RAW_DEFLATE)
    try:
        found = inflate.decompress(data, num_bytes + 1)
    except zlib.error as error:
        raise DataError(f"numbers that are damaged: {error}") from error
    if len(found) != num_bytes or not inflate.eof or inflate.unused_data:
        raise DataError(f"more or fewer numbers than {num_bytes}")
    entries = np.frombuffer(found, np.int8)
    _check(entries)
    parts = [entries[begin:end] for begin, end in itertools.pairwise(np.cumsum([0, *lengths]))]
    return [
        Factors(u.reshape(shape.rank, shape.num_patches), v.reshape(shape.rank, WIDTH))
        for shape, v, u in zip(shapes, parts[: len(shapes)], parts[len(shapes) :], strict=True)
    ]


def _check(entries: Factor) -> None:
    if entries.size and not LOWEST <= entries.min() <= entries.max() <= HIGHEST:
        raise DataError(f"numbers that are damaged: not all lie in {LOWEST} … {HIGHEST}")
