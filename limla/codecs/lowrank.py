"""Low rank in whole numbers: the patches of a picture are a product of two factors, `limla.codecs.integer_factors`.

RGB becomes Y, Cb and Cr with halved chroma; each plane is cut into patches of 8×8 pixels, the rows of a matrix X, less
the plane's mean; X ≈ U Vᵀ. The entries are small whole numbers already, so nothing is quantised afterwards. After
Ashtari et al., "Quantization-free Lossy Image Compression Using Integer Matrix Factorization" (arXiv 2408.12691).

The body of the `.laff` file, numbers of one byte:

    for each of Y, Cb, Cr    the mean, the rank
    the factors              raw deflate (RFC 1951) of the int8 entries: V of Y, Cb and Cr, then U of each; a
                             component's entries stand together, patches in rows from the top left
"""

from __future__ import annotations

import importlib.metadata
import itertools
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs import ycbcr
from limla.codecs.base import QualityScale, check_image
from limla.codecs.container import EXTENSION, LONGEST_SIDE, read_whole, write_container
from limla.codecs.integer_factors import HIGHEST, LOWEST, WIDTH, Factors, Floats, Rows, factorise, svd_start
from limla.codecs.rgb import to_rgb
from limla.codecs.ycbcr import Planes
from limla.errors import DataError
from limla.kernels import kernel
from limla.types import Image

PATCH = 8
NUM_ROUNDS = 10
_NUM_PLANES = 3
_DEFLATE_LEVEL, _RAW_DEFLATE, _MEMORY = 9, -15, 9


class _Plane(NamedTuple):
    """A plane ready to be factorised: its patches less the mean, and the start of V."""

    mean: int
    x: Rows
    start: Floats


class LowrankCodec:
    """Integer matrix factorisation. The quality is the number of components: two of luma for one of each chroma."""

    name: ClassVar[str] = "lowrank"
    extension: ClassVar[str] = EXTENSION
    scale: ClassVar[QualityScale] = QualityScale("components", 1, 96)

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, with 1 to 96 components.

        An image of few patches has no more components than those.

        Raises `SettingsError` for a quality out of range and an image that is too large, `ValueError` for a shape or
        dtype that is no image. Releases the GIL while it computes.
        """
        return self.encode_each(image, [quality])[0]

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each quality: the same bytes, but colours, patches and the SVD are computed only once."""
        for quality in qualities:
            self.scale.check(quality)
        check_image(image, self.name, LONGEST_SIDE)
        height, width = image.shape[:2]
        planes = [_prepare(plane) for plane in _split(image)] if qualities else []
        files = {
            quality: write_container(self.name, height, width, _encode_body(planes, quality))
            for quality in dict.fromkeys(qualities)
        }
        return [files[quality] for quality in qualities]

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode what `encode` made.

        Raises `DataError` for damaged data and more than `MAX_PIXELS`. Factors take 1.5 bytes of memory a pixel at
        most, planes as many.
        """
        contents = read_whole(data, self.name)
        sides = _plane_sides(contents.height, contents.width)
        means, factors = _decode_body(contents.body, sides)
        planes = Planes(*map(_join, sides, means, factors))
        return to_rgb(planes, contents.height, contents.width)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {
            "patch": PATCH,
            "entries": f"{LOWEST} to {HIGHEST}",
            "start": "SVD",
            "rounds": NUM_ROUNDS,
            "chroma": "1 of 3 components",
            "subsampling": "420",
            "coding": f"deflate, level {_DEFLATE_LEVEL}",
        }

    def version(self) -> str:
        """limla, and the library that deflates."""
        return f"limla {importlib.metadata.version('limla')}, zlib {zlib.ZLIB_RUNTIME_VERSION}"


def _ranks(quality: int) -> tuple[int, int, int]:
    """Of Y, Cb and Cr: each step of the quality adds a component, to luma twice and then to both chromas."""
    chroma = (quality + 1) // 3
    return quality - chroma, chroma, chroma


def _plane_sides(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the patches of Y, Cb and Cr."""
    chroma = -(-height // (2 * PATCH)), -(-width // (2 * PATCH))
    return [(-(-height // PATCH), -(-width // PATCH)), chroma, chroma]


def _split(image: Image) -> Planes:
    """Y, Cb and Cr, chroma halved."""
    height, width = image.shape[:2]
    y, cb, cr = ycbcr.to_planes(image, 2, 2)
    # whole blocks come back, of which the last ones may hold what only JPEG can use
    rows, columns = -(-height // 2), -(-width // 2)
    return Planes(y[:height, :width], cb[:rows, :columns], cr[:rows, :columns])


def _prepare(plane: npt.NDArray[np.uint8]) -> _Plane:
    """The patches of a plane, its last row and column repeated to whole ones."""
    height, width = plane.shape
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    mean = (2 * int(plane.sum(dtype=np.int64)) + plane.size) // (2 * plane.size)
    whole = np.pad(plane, ((0, rows * PATCH - height), (0, columns * PATCH - width)), mode="edge")
    patches = whole.reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2).reshape(rows * columns, WIDTH)
    x = patches.astype(np.int16) - np.int16(mean)
    return _Plane(mean, x, svd_start(x))


def _encode_body(planes: Sequence[_Plane], quality: int) -> bytes:
    factors = [
        factorise(plane.x, plane.start[:rank], NUM_ROUNDS)
        for plane, rank in zip(planes, _ranks(quality), strict=True)
    ]
    head = bytes(
        number for plane, (_, v) in zip(planes, factors, strict=True) for number in (plane.mean, len(v))
    )
    entries = [v for _, v in factors] + [u for u, _ in factors]
    deflate = zlib.compressobj(_DEFLATE_LEVEL, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY)
    return b"".join((head, *(deflate.compress(factor.tobytes()) for factor in entries), deflate.flush()))


def _decode_body(body: memoryview, sides: Sequence[tuple[int, int]]) -> tuple[list[int], list[Factors]]:
    """The means and the factors of Y, Cb and Cr; raises `DataError` for what `_encode_body` cannot have written."""
    head, packed = bytes(body[: 2 * _NUM_PLANES]), body[2 * _NUM_PLANES :]
    if len(head) < 2 * _NUM_PLANES:
        raise DataError("a lowrank file that ends before its factors")
    means, ranks = list(head[::2]), head[1::2]
    numbers = [rows * columns for rows, columns in sides]
    for rank, number in zip(ranks, numbers, strict=True):
        if rank > min(WIDTH, number):
            raise DataError(
                f"a lowrank file of {rank} components, and {number} patches have at most {min(WIDTH, number)}"
            )
    lengths = [rank * WIDTH for rank in ranks]
    lengths += [rank * number for rank, number in zip(ranks, numbers, strict=True)]
    places = np.cumsum([0, *lengths])
    entries = np.frombuffer(_inflate(packed, int(places[-1])), np.int8)
    if entries.size and (entries.min() < LOWEST or entries.max() > HIGHEST):
        raise DataError(f"a lowrank file whose factors are damaged: not all from {LOWEST} to {HIGHEST}")
    parts = [entries[begin:end] for begin, end in itertools.pairwise(places)]
    factors = [
        Factors(u.reshape(rank, number), v.reshape(rank, WIDTH))
        for rank, number, v, u in zip(ranks, numbers, parts[:_NUM_PLANES], parts[_NUM_PLANES:], strict=True)
    ]
    return means, factors


def _inflate(packed: memoryview, num_bytes: int) -> bytes:
    """The `num_bytes` that were deflated; no more are made of any data."""
    inflate = zlib.decompressobj(_RAW_DEFLATE)
    try:
        found = inflate.decompress(packed, num_bytes + 1)
    except zlib.error as error:
        raise DataError(f"a lowrank file whose factors are damaged: {error}") from error
    if len(found) != num_bytes or not inflate.eof or inflate.unused_data:
        raise DataError(f"a lowrank file whose factors are damaged: they are not {num_bytes} numbers")
    return found


def _join(sides: tuple[int, int], mean: int, factors: Factors) -> npt.NDArray[np.uint8]:
    """The plane of U Vᵀ and the mean, in whole patches."""
    rows, columns = sides
    plane = np.empty((rows * PATCH, columns * PATCH), np.uint8)
    sums = np.empty(WIDTH, np.int32)
    u, v = (np.ascontiguousarray(factor) for factor in factors)
    _fill(rows, columns, len(v), mean, *(array.ctypes.data for array in (u, v, sums, plane)))
    return plane


@kernel("int64", "int64", "int64", "int64", "int8*", "int8*", "int32*", "uint8*")
def _fill(rows: int, columns: int, rank: int, mean: int, u: Any, v: Any, sums: Any, plane: Any) -> None:
    """Fill the plane of `rows` × `columns` patches; `sums` is room for one."""
    for row in range(rows):
        for column in range(columns):
            for k in range(64):
                sums[k] = mean
            for r in range(rank):
                entry = np.int32(u[(r * rows + row) * columns + column])
                if entry != 0:
                    for k in range(64):
                        sums[k] += np.int32(entry * np.int32(v[r * 64 + k]))
            for k in range(64):
                place = (row * 8 + (k >> 3)) * columns * 8 + column * 8 + (k & 7)
                plane[place] = min(max(sums[k], np.int32(0)), np.int32(255))
