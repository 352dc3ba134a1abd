"""The bitstream of the svd codec: quantised singular vectors of blocks, rank by rank, in layers.

    bytes  what
    2      step of luma, in 1/64, big-endian, as every number here
    2      step of chroma, in 1/64
    2      rank of the whole file: the highest of its blocks
    n      mean of each block
    4      CRC-32 (zlib's) of all before
    then layers, each
    3      number of bytes of its payload
    4      CRC-32 of number and payload
           payload: the number of ranks in 1 byte, and the range coder's bytes (`limla.codecs.entropy`)

Of each rank a layer holds a row with a number for each block that had all ranks before: 0 where the block ends before
this rank, else 1 + how much its scale is lower than at the rank before, in quarters of a doubling; then, for each
block that goes on, its two vectors. A layer can be read once those before it are, for what the coder has learnt from
them it knows already.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs.entropy import RowModel, RowReader, Rows, RowWriter
from limla.errors import DataError

STEP_UNIT = 64
"""Steps are whole numbers of 1/64."""
_HEAD = struct.Struct(">HHH")
_CHECKSUM = struct.Struct(">I")
_LENGTH_BYTES = 3
_LAYER_BYTES = 512
"""A layer ends with the rank that fills so many: its own header then is 1 to 2 % of the file at most."""
_MOST_RANKS = 255  # in a layer
_FIRST_SCALE = 80  # a doubling is 4: no term of a tile is 2 to the power of 20 steps
_LEAST_SCALE = -80
_QUARTERS = (1.0, 0.8408964152537145, 0.7071067811865476, 0.5946035575013605)
"""2 to the power of -0/4 to -3/4."""


class Side(NamedTuple):
    """Of a block: pixels, and whether it is of luma."""

    height: int
    width: int
    is_luma: bool


@dataclass
class Block:
    """A quantised block: mean + step · Σ 2^(-scale/4) · column · rowᵀ over its ranks.

    Attributes:
        mean: 0 to 255.
        scales: one for each rank, falling.
        columns: (height,) int32 for each rank, the left singular vector in units of its step.
        rows: (width,) int32 for each rank, the right one.
    """

    mean: int
    scales: list[int] = field(default_factory=list)
    columns: list[Rows] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def pixels(self, side: Side, step: float) -> npt.NDArray[np.uint8]:
        """The (height, width) plane."""
        if not self.scales:
            return np.full((side.height, side.width), self.mean, np.uint8)
        columns = np.stack(self.columns, axis=1) * (step * weights(self.scales))
        values = columns @ np.stack(self.rows).astype(np.float64)
        values += self.mean
        return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


class Body(NamedTuple):
    """What was read: steps of luma and chroma, the blocks, the rank that is there and the whole file's."""

    steps: tuple[float, float]
    blocks: list[Block]
    held: int
    whole: int


def weights(scales: list[int]) -> npt.NDArray[np.float64]:
    """2 to the power of -scale/4, by exact doublings of four constants: the same on every machine."""
    return np.array([math.ldexp(_QUARTERS[scale % 4], -(scale // 4)) for scale in scales])


class _Learnt:
    """What the coder knows of blocks, and of ranks from one layer to the next; the same when writing and reading."""

    def __init__(self, sides: list[Side]) -> None:
        self.scales = RowModel()
        self.vectors = RowModel()
        self.sides = sides
        self.alive = list(range(len(sides)))


def write_body(steps: tuple[float, float], sides: list[Side], blocks: list[Block]) -> bytes:
    """The bitstream of blocks that have 0 to min(height, width) ranks each."""
    whole = max(len(block.scales) for block in blocks)
    numbers = (round(step * STEP_UNIT) for step in steps)
    head = _HEAD.pack(*numbers, whole) + bytes(block.mean for block in blocks)
    parts = [head, _CHECKSUM.pack(zlib.crc32(head))]
    learnt = _Learnt(sides)
    rank = 0
    while rank < whole:
        writer, first = RowWriter(), rank
        while rank < whole and rank - first < _MOST_RANKS and writer.num_bytes < _LAYER_BYTES:
            _write_rank(writer, learnt, blocks, rank)
            rank += 1
        payload = bytes((rank - first,)) + writer.finish()
        length = len(payload).to_bytes(_LENGTH_BYTES, "big")
        parts += [length, _CHECKSUM.pack(zlib.crc32(length + payload)), payload]
    return b"".join(parts)


def _write_rank(writer: RowWriter, learnt: _Learnt, blocks: list[Block], rank: int) -> None:
    falls = [
        1 + (blocks[place].scales[rank - 1] if rank else _FIRST_SCALE) - blocks[place].scales[rank]
        if rank < len(blocks[place].scales)
        else 0
        for place in learnt.alive
    ]
    writer.write(np.array(falls, np.int32), learnt.scales)
    learnt.alive = [place for place, fall in zip(learnt.alive, falls, strict=True) if fall]
    for place in learnt.alive:
        for vectors in (blocks[place].columns, blocks[place].rows):
            writer.write(vectors[rank], learnt.vectors)


def read_body(data: memoryview, sides: list[Side], must_be_whole: bool) -> Body:
    """The blocks of a bitstream, of whose layers the last ones may be missing unless `must_be_whole`.

    Raises `DataError` for a head that is cut off, and for anything that does not match its checksum or makes no
    sense, terms of two vectors of zeros among it.

    A number that was foreseen costs a thousandth of a bit, so a byte may stand for up to 8,000 of them. What bounds
    memory and time is the size in the file's header: in a block of m × n pixels, m ≤ n, m ranks of m + n numbers at
    most, and as many multiplications for each pixel as there are ranks.
    """
    end = _HEAD.size + len(sides)
    if len(data) < end + _CHECKSUM.size:
        raise DataError("an svd file that is cut off before its first layer")
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise DataError("an svd file whose head is damaged: its checksum differs")
    luma, chroma, whole = _HEAD.unpack_from(data)
    most = max(min(side.height, side.width) for side in sides)
    if luma == 0 or chroma == 0 or whole > most:
        raise DataError(
            f"an svd file whose head makes no sense: steps {luma} and {chroma}, rank {whole} of {most}"
        )
    blocks = [Block(mean) for mean in data[_HEAD.size : end]]
    learnt = _Learnt(sides)
    place, held = end + _CHECKSUM.size, 0
    while held < whole:
        payload = _layer(data[place:])
        if payload is None:
            break
        place += _LENGTH_BYTES + _CHECKSUM.size + len(payload)
        number = payload[0]
        if not 0 < number <= whole - held:
            raise DataError(f"an svd file with a layer of {number} ranks after {held} of {whole}")
        reader = RowReader(payload[1:])
        for _ in range(number):
            _read_rank(reader, learnt, blocks)
        held += number
    if must_be_whole and (held < whole or place < len(data)):
        raise DataError(f"an svd file with {held} of {whole} ranks and {len(data) - place} bytes after them")
    return Body((luma / STEP_UNIT, chroma / STEP_UNIT), blocks, held, whole)


def _layer(data: memoryview) -> memoryview | None:
    """The payload of the layer at the beginning of `data`; None where it is not all there."""
    start = _LENGTH_BYTES + _CHECKSUM.size
    length = int.from_bytes(data[:_LENGTH_BYTES], "big")
    if len(data) < start or len(data) < start + length:
        return None
    payload = data[start : start + length]
    if _CHECKSUM.unpack_from(data, _LENGTH_BYTES)[0] != zlib.crc32(payload, zlib.crc32(data[:_LENGTH_BYTES])):
        raise DataError("an svd file with a damaged layer: its checksum differs")
    if not length:
        raise DataError("an svd file with a layer of nothing")
    return payload


def _read_rank(reader: RowReader, learnt: _Learnt, blocks: list[Block]) -> None:
    falls = reader.read(len(learnt.alive), learnt.scales).tolist()
    learnt.alive = [place for place, fall in zip(learnt.alive, falls, strict=True) if fall]
    for place, fall in zip(learnt.alive, filter(None, falls), strict=True):
        block, side = blocks[place], learnt.sides[place]
        scale = (block.scales[-1] if block.scales else _FIRST_SCALE) + 1 - fall
        if fall < 0 or scale < _LEAST_SCALE or len(block.scales) == min(side.height, side.width):
            raise DataError("an svd file with a layer that makes no sense")
        block.scales.append(scale)
    for place in learnt.alive:
        block, side = blocks[place], learnt.sides[place]
        for vectors, length in ((block.columns, side.height), (block.rows, side.width)):
            vectors.append(reader.read(length, learnt.vectors))
            if reader.is_past_end:
                raise DataError("an svd file with a layer that ends too early")
        # a kept term's shorter vector has an entry of √((m + n) / 4m) · 0.957 at least: more than a half
        if not (block.columns[-1].any() or block.rows[-1].any()):
            raise DataError("an svd file with a term of nothing")
    if not learnt.alive:
        raise DataError("an svd file with a rank of no block")
