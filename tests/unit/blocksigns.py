"""A codec with binary codes, for the tests of probes: signs of a few projections of each 8 × 8 block."""

from __future__ import annotations

import functools
import struct

import numpy as np
import numpy.typing as npt

from limla.codecs.base import QualityScale
from limla.errors import DataError
from limla.types import Image

CELL = 8
NAME = "blocksigns"
PLUG = "tests.unit.blocksigns:BlockSigns"
_HEADER = struct.Struct(">HHB")


@functools.cache
def _directions(bits: int) -> npt.NDArray[np.float64]:
    """(bits, 192) orthonormal rows; the first one is a block's mean."""
    values = np.random.default_rng(7).standard_normal((CELL * CELL * 3, bits))
    values[:, 0] = 1.0
    rows = np.linalg.qr(values)[0].T
    return rows * np.sign(rows[:, :1])


class BlockSigns:
    """Its quality is the number of bits per block; the first one says whether the block is bright."""

    name = NAME
    extension = "bin"
    scale = QualityScale("bits", 1, 64)

    def codes(self, image: Image, quality: int) -> npt.NDArray[np.uint8]:
        """(bits, h, w) of 0 and 1."""
        self.scale.check(quality)
        rows, columns = (-(-side // CELL) for side in image.shape[:2])
        margins = (rows * CELL - image.shape[0], columns * CELL - image.shape[1])
        padded = np.pad(image, ((0, margins[0]), (0, margins[1]), (0, 0)), mode="edge")
        blocks = padded.reshape(rows, CELL, columns, CELL, 3).swapaxes(1, 2)
        signs = (blocks.reshape(rows, columns, -1) - 128.0) @ _directions(quality).T > 0
        return np.ascontiguousarray(signs.transpose(2, 0, 1)).astype(np.uint8)

    def encode(self, image: Image, quality: int) -> bytes:
        codes = self.codes(image, quality)
        return _HEADER.pack(*image.shape[:2], quality) + np.packbits(codes).tobytes()

    def decode(self, data: bytes | memoryview) -> Image:
        height, width, bits = _HEADER.unpack_from(data)
        rows, columns = -(-height // CELL), -(-width // CELL)
        packed = np.frombuffer(data, np.uint8, offset=_HEADER.size)
        if len(packed) != -(-bits * rows * columns // 8):
            raise DataError("a file of blocksigns that is cut off")
        codes = np.unpackbits(packed, count=bits * rows * columns).reshape(bits, rows, columns)
        return self.from_codes(codes, height, width)

    def from_codes(self, codes: npt.NDArray[np.uint8], height: int, width: int, gray: bool = False) -> Image:
        """The image; `gray` is for codecs with colour of their own to leave out."""
        bits, rows, columns = codes.shape
        blocks = 128 + 400.0 * np.einsum("brc,bv->rcv", codes * 2.0 - 1, _directions(bits))
        pixels = blocks.reshape(rows, columns, CELL, CELL, 3).swapaxes(1, 2)
        image = pixels.reshape(rows * CELL, columns * CELL, 3)[:height, :width]
        return np.clip(image, 0, 255).astype(np.uint8)

    def settings(self) -> dict[str, str | int | bool]:
        return {"cell": CELL}

    def version(self) -> str:
        return "blocksigns 1"
