"""Low rank in whole numbers: the patches of a picture are a product of two factors, `limla.codecs.integer_factors`.

RGB becomes Y, Cb and Cr with halved chroma; each plane is cut into patches of 8×8 pixels, the rows of a matrix X, less
the plane's mean; X ≈ U Vᵀ. The entries are small whole numbers already, so nothing is quantised afterwards. After
Ashtari et al., "Quantization-free Lossy Image Compression Using Integer Matrix Factorization" (arXiv 2408.12691).

The body of the `.laff` file, numbers of one byte:

    the coding               0 deflate, 1 adaptive
    for each of Y, Cb, Cr    the mean, the rank
    the factors              see `limla.codecs.factor_coding`
"""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs import ycbcr
from limla.codecs.base import QualityScale, check_image
from limla.codecs.container import EXTENSION, LONGEST_SIDE, read_whole, write_container
from limla.codecs.factor_coding import CODINGS, DEFLATE_LEVEL, Shape, read_factors, write_factors
from limla.codecs.integer_factors import HIGHEST, LOWEST, WIDTH, Factors, Floats, Rows, factorise, svd_start
from limla.codecs.rgb import to_rgb
from limla.codecs.ycbcr import Planes
from limla.errors import DataError, SettingsError
from limla.kernels import kernel
from limla.types import Image

PATCH = 8
NUM_ROUNDS = 10
_HEAD_BYTES = 1 + 2 * 3


class _Plane(NamedTuple):
    """A plane ready to be factorised: the patches' rows and columns, the mean, X, and the start of V."""

    sides: tuple[int, int]
    mean: int
    x: Rows
    start: Floats


class LowrankCodec:
    """Integer matrix factorisation. The quality is the number of components: two of luma for one of each chroma.

    Args:
        coding: of the factors: "deflate" as published, or "adaptive" for files shorter by about a quarter.
    """

    name: ClassVar[str] = "lowrank"
    extension: ClassVar[str] = EXTENSION
    scale: ClassVar[QualityScale] = QualityScale("components", 1, 96)

    def __init__(self, coding: str = "deflate") -> None:
        if coding not in CODINGS:
            raise SettingsError(f"unknown coding of factors '{coding}'; known: {', '.join(CODINGS)}")
        self.coding = coding

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
            quality: write_container(self.name, height, width, _encode_body(planes, quality, self.coding))
            for quality in dict.fromkeys(qualities)
        }
        return [files[quality] for quality in qualities]

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode what `encode` made.

        Raises `DataError` for damaged data and more than `MAX_PIXELS`. Factors take 1.5 bytes of memory a pixel at
        most, planes as many.
        """
        contents = read_whole(data, self.name)
        height, width = contents.height, contents.width
        if max(height, width) > LONGEST_SIDE:
            raise DataError(f"a lowrank file of {height} × {width} pixels; a side has {LONGEST_SIDE} at most")
        planes = Planes(*_decode_body(contents.body, _plane_sides(height, width)))
        return to_rgb(planes, height, width)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {
            "coding": self.coding,
            "patch": PATCH,
            "entries": f"{LOWEST} to {HIGHEST}",
            "start": "SVD",
            "rounds": NUM_ROUNDS,
            "chroma": "1 of 3 components",
            "subsampling": "420",
            "deflate_level": DEFLATE_LEVEL,
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
    return _Plane((rows, columns), mean, x, svd_start(x))


def _encode_body(planes: Sequence[_Plane], quality: int, coding: str) -> bytes:
    factors = [
        factorise(plane.x, plane.start[:rank], NUM_ROUNDS)
        for plane, rank in zip(planes, _ranks(quality), strict=True)
    ]
    head, shapes = [CODINGS.index(coding)], []
    for plane, (_, v) in zip(planes, factors, strict=True):
        head += plane.mean, len(v)
        shapes.append(Shape(len(v), *plane.sides))
    return bytes(head) + write_factors(factors, shapes, coding)


def _decode_body(body: memoryview, sides: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.uint8]]:
    """Y, Cb and Cr in whole patches; raises `DataError` for what `_encode_body` cannot have written."""
    head = list(body[:_HEAD_BYTES])
    if len(head) < _HEAD_BYTES or head[0] >= len(CODINGS):
        raise DataError("a lowrank file that is damaged: it does not begin with a coding, means and ranks")
    means, ranks = head[1::2], head[2::2]
    shapes = [Shape(rank, *side) for rank, side in zip(ranks, sides, strict=True)]
    for shape in shapes:
        most = min(WIDTH, shape.num_patches)
        if shape.rank > most:
            raise DataError(
                f"a lowrank file of {shape.rank} components; {shape.num_patches} patches have {most} at most"
            )
    try:
        factors = read_factors(body[_HEAD_BYTES:], shapes, CODINGS[head[0]])
    except DataError as error:
        raise DataError(f"a lowrank file whose factors are damaged: {error}") from error
    return [_join(*plane) for plane in zip(sides, means, factors, strict=True)]


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
