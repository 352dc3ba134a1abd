"""One file of a learned codec's binary codes for a whole folder of pictures, for use as arrays: `.npz`.

Its members, which `numpy.load` reads without pickle:

    format   text, "limla-codes-1"
    weights  text, the first 16 hexadecimal digits of the SHA-256 of the weights that made the codes
    quality  whole number, the codec's
    bits     whole number, of a code position
    keys     (N,) text
    sides    (N, 4) int64: rows and columns of the grid of codes, height and width of the image
    gray     (N,) uint8, 1 where the image has no colour
    codes    uint8: the images' codes one after another, each (bits, rows, columns) in C order, 8 to a byte as
             `numpy.packbits` packs them, from a whole byte on

Equal codes give equal bytes.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs.autoencoder_network import grid_shape
from limla.codecs.base import BinaryCodes, check_decoded_size
from limla.errors import DataError
from limla.files import write_bytes
from limla.paths import AnyPath
from limla.storage import read_bytes

SUFFIX = ".npz"
FORMAT = "limla-codes-1"
_MEMBERS = ("format", "weights", "quality", "bits", "keys", "sides", "gray", "codes")
_MOST_BITS = 2048


class CodedImage(NamedTuple):
    """One picture's codes.

    Attributes:
        key: its path without the suffix.
        packed: the codes, 8 to a byte.
        bits: of a code position.
        height, width: of the image.
        gray: it has no colour.
    """

    key: str
    packed: npt.NDArray[np.uint8]
    bits: int
    height: int
    width: int
    gray: bool

    @classmethod
    def of(
        cls, key: str, codes: npt.NDArray[np.uint8], height: int, width: int, gray: bool = False
    ) -> CodedImage:
        """From the (bits, rows, columns) codes that a codec gave."""
        assert codes.shape[1:] == grid_shape(height, width), codes.shape
        return cls(key, np.packbits(codes), codes.shape[0], height, width, gray)

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """(bits, rows, columns) uint8, 0 or 1; a new array."""
        shape = (self.bits, *grid_shape(self.height, self.width))
        return np.unpackbits(self.packed, count=math.prod(shape)).reshape(shape)


@dataclass(frozen=True)
class CodeArrays:
    """The codes of a folder of pictures, held packed.

    Attributes:
        weights: the codec's settings()["weights"].
        quality: the codec's.
        bits: of a code position.
    """

    weights: str
    quality: int
    bits: int
    _images: list[CodedImage]

    @classmethod
    def begin(cls, codec: BinaryCodes, quality: int) -> CodeArrays:
        """An empty one, to `add` to."""
        bits = len(codec.codes(np.zeros((1, 1, 3), np.uint8), quality))
        return cls(str(codec.settings()["weights"]), quality, bits, [])

    def add(self, image: CodedImage) -> None:
        """Add what the codec gave for a picture at `quality`."""
        assert image.bits == self.bits, image.bits
        self._images.append(image)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[CodedImage]:
        return iter(self._images)

    def check_codec(self, codec: BinaryCodes) -> None:
        """Raise `DataError` unless these are codes of that codec's weights."""
        own = str(codec.settings()["weights"])
        if own != self.weights:
            raise DataError(
                f"codes of the weights {self.weights[:40]!a}, not of '{own}': name the weights that made them"
            )

    def to_bytes(self) -> bytes:
        """The file."""
        sides = [(*grid_shape(image.height, image.width), image.height, image.width) for image in self._images]
        file = io.BytesIO()
        np.savez(
            file,
            format=np.array(FORMAT),
            weights=np.array(self.weights),
            quality=np.int64(self.quality),
            bits=np.int64(self.bits),
            keys=np.array([image.key for image in self._images], dtype=np.str_),
            sides=np.array(sides, np.int64).reshape(-1, 4),
            gray=np.array([image.gray for image in self._images], np.uint8),
            codes=np.concatenate([np.zeros(0, np.uint8), *(image.packed for image in self._images)]),
        )
        return file.getvalue()

    def write(self, path: AnyPath) -> None:
        """Write the file, whole or not at all."""
        write_bytes(path, self.to_bytes())

    @classmethod
    def read(cls, path: AnyPath) -> CodeArrays:
        """The contents of a file; raises `DataError` for one that is damaged or another."""
        try:
            return cls.from_bytes(read_bytes(path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> CodeArrays:
        """The inverse of `to_bytes`; raises `DataError`. Allocates a small multiple of the file's own length."""
        try:
            members = _members(data)
            if str(members["format"]) != FORMAT:
                raise DataError(f"a file of codes of another kind: {str(members['format'])[:40]!a}")
            quality, bits = int(members["quality"]), int(members["bits"])
            keys, sides, codes = members["keys"], members["sides"], members["codes"]
            if (
                keys.ndim != 1
                or keys.dtype.kind != "U"
                or sides.shape != (len(keys), 4)
                or sides.dtype != np.int64
            ):
                raise ValueError("its keys and sides do not belong together")
            gray = members["gray"]
            if gray.shape != keys.shape or gray.dtype != np.uint8 or gray.max(initial=0) > 1:
                raise ValueError("it does not say which images are gray")
            if codes.ndim != 1 or codes.dtype != np.uint8 or not 1 <= bits <= _MOST_BITS:
                raise ValueError("its codes are no bytes")
            images, start = [], 0
            for key, (rows, columns, height, width), is_gray in zip(
                keys.tolist(), sides.tolist(), gray.tolist(), strict=True
            ):
                check_decoded_size(height, width)
                if (rows, columns) != grid_shape(height, width):
                    raise ValueError(f"{key[:40]!a} has a grid of another size than its image's")
                end = start + -(-bits * rows * columns // 8)
                images.append(CodedImage(key, codes[start:end], bits, height, width, bool(is_gray)))
                start = end
            if start != len(codes):
                raise ValueError(f"it holds {len(codes)} bytes of codes instead of {start}")
            return cls(str(members["weights"]), quality, bits, images)
        except DataError:
            raise
        except (
            OSError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError, SyntaxError,
            EOFError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"not a whole file of codes ({reason})") from error


def _members(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays; what a member's header says is believed only as far as its bytes go."""
    found: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in _MEMBERS:
            if f"{name}.npy" not in archive.namelist():
                raise DataError(f"it has no '{name}': made by another version of limla, or damaged")
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                raise ValueError(f"'{name}' is compressed")
            member = io.BytesIO(archive.read(info))
            version = np.lib.format.read_magic(member)
            if version != (1, 0):
                raise ValueError(f"'{name}' is of npy version {version}")
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
            rest = member.read()
            if in_fortran_order or dtype.hasobject or not dtype.itemsize:
                raise ValueError(f"'{name}' is of type {dtype}")
            found[name] = np.frombuffer(rest, dtype).reshape(shape)
    return found
