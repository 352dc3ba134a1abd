"""The truncated singular value decomposition as an image codec: the classical low-rank one.

Y, Cb and Cr (JFIF, chroma at half resolution) less their means are factored by a singular value decomposition, of
whose terms the strongest are kept: of all matrices of that rank theirs is the nearest (Eckart & Young, Psychometrika
1, 1936). Andrews & Patterson coded images so ("Singular value decomposition (SVD) image coding", IEEE Transactions on
Communications 24, 1976). The vectors are quantised and entropy-coded; the bitstream is in `limla.codecs.svd_layers`.

How fine: the term s·u·vᵀ is written as two vectors s·u/Δ and s·v/Δ rounded to whole numbers. So the step of u and v is
Δ/s, finer the stronger the term, and each number adds as much error to the image as any other, Δ²/12: for a given
error the cheapest way (reverse water-filling). A term is kept if s² > Δ²(m + n)/4 in an m × n block: if it removes more
error than its numbers add and their bits are worth. So one number, Δ, is the quality, and the rank follows, for each
channel by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs import ycbcr
from limla.codecs.base import Prefix, QualityScale, check_image
from limla.codecs.blas import one_blas_thread
from limla.codecs.container import (
    EXTENSION,
    LONGEST_SIDE,
    Contents,
    read_container,
    read_whole,
    write_container,
)
from limla.codecs.entropy import MOST
from limla.codecs.rgb import to_rgb
from limla.codecs.svd_layers import STEP_UNIT, Block, Body, Side, read_body, weights, write_body
from limla.types import Image

Plane = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

TILE = 1024
"""An image longer than that on a side is cut into tiles that are not, each with factors of its own: time and memory
then grow with the number of pixels, where those of one decomposition would grow faster. Files depend on it."""
_FINEST_STEP = 2.0
"""At the highest quality, where halved chroma costs about as much as rounding."""
_QUALITIES_PER_DOUBLING = 13
_CHROMA_STEP = 0.6
"""Of luma's step: a number of the halved planes weighs more, for it stands for four pixels, smoothly."""
_KEPT = 0.25
"""The least s² of a term, of Δ²(m + n). With the step of chroma, the best of those tried on photos at equal rates."""


class Factors(NamedTuple):
    """The singular value decomposition of a matrix with no more rows than columns: Σ s · u · vᵀ.

    Attributes:
        values: (m,) singular values s, falling.
        left: (m, m) u as columns, orthonormal, the largest entry of each positive.
    """

    values: npt.NDArray[np.float64]
    left: Matrix


def factorise(matrix: Matrix) -> Factors:
    """The decomposition of an (m, n) matrix, m ≤ n, by the eigenvectors of its Gram matrix.

    s · v of a term is matrixᵀ · u. In double precision the values are exact to about 1e-8 of the largest: far below
    what quantisation leaves of pixels of 8 bits.
    """
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    left = vectors[:, ::-1]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    return Factors(np.sqrt(np.maximum(squares[::-1], 0)), left * np.where(largest < 0, -1.0, 1.0))


class SvdCodec:
    """Truncated singular value decomposition of Y, Cb and Cr, quantised, entropy-coded, progressive.

    Quality 1 to 100 is the step Δ, 2 at 100 and doubled each 13 below; the rank follows from it. A file that was cut
    off is read by `decode_prefix` at the rank it still holds, and refused by `decode`.
    """

    name: ClassVar[str] = "svd"
    extension: ClassVar[str] = EXTENSION
    scale: ClassVar[QualityScale] = QualityScale("quality", 1, 100)

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, at quality 1 to 100.

        Raises `SettingsError` for a quality out of range, `ValueError` for a shape or dtype that is no image.
        """
        return self.encode_each(image, [quality])[0]

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each quality: the same bytes, with one decomposition for all."""
        for quality in qualities:
            self.scale.check(quality)
        check_image(image, "svd", LONGEST_SIDE)
        if not qualities:
            return []
        height, width = image.shape[:2]
        steps = {quality: _steps(quality) for quality in qualities}
        blocks: dict[int, list[Block]] = {quality: [] for quality in steps}
        sides = _sides(height, width)
        with one_blas_thread():
            for side, plane in zip(sides, _cut(image), strict=True):
                found = _quantise_each(plane, [steps[quality][not side.is_luma] for quality in steps])
                for quality, block in zip(steps, found, strict=True):
                    blocks[quality].append(block)
        files = {
            quality: write_container(
                self.name, height, width, write_body(steps[quality], sides, blocks.pop(quality))
            )
            for quality in steps
        }
        return [files[quality] for quality in qualities]

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode to (H, W, 3) uint8 sRGB; raises `DataError` for a file that is damaged, cut off or another codec's."""
        return _read(read_whole(data, self.name)).image

    def decode_prefix(self, data: bytes | memoryview) -> Prefix:
        """The image at the rank that the beginning of a file holds, 0 where it holds the means of its blocks alone.

        Raises `DataError` where not even these are there, and for damage in what is.
        """
        contents = read_container(data)
        if contents.is_whole or contents.codec != self.name:
            contents = read_whole(data, self.name)
        return _read(contents)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned choices."""
        return {
            "subsampling": "420",
            "tile": TILE,
            "finest_step": str(_FINEST_STEP),
            "chroma_step": str(_CHROMA_STEP),
            "layout": 1,
        }

    def version(self) -> str:
        """The library that decomposes."""
        return f"limla svd 1, numpy {np.__version__}"


def _steps(quality: int) -> tuple[float, float]:
    """Of luma and of chroma, as they stand in the file."""
    step = _FINEST_STEP * 2.0 ** ((SvdCodec.scale.highest - quality) / _QUALITIES_PER_DOUBLING)
    return round(STEP_UNIT * step) / STEP_UNIT, round(STEP_UNIT * _CHROMA_STEP * step) / STEP_UNIT


def _spans(length: int) -> list[slice]:
    """A side in parts of up to `TILE`; they begin at even numbers, so that chroma is cut at whole samples."""
    number = -(-length // TILE)
    edges = [*(-(-length * place // (2 * number)) * 2 for place in range(number)), length]
    return [slice(*span) for span in itertools.pairwise(edges)]


def _halved(span: slice) -> slice:
    """Of chroma, what `span` is of luma."""
    return slice(span.start // 2, -(-span.stop // 2))


def _places(height: int, width: int) -> list[tuple[int, slice, slice]]:
    """Every block of an image, in the order of the file: its plane (Y, Cb, Cr), rows and columns."""
    tiles = list(itertools.product(_spans(height), _spans(width)))
    return [
        (plane, *((down, across) if plane == 0 else (_halved(down), _halved(across))))
        for plane in range(3)
        for down, across in tiles
    ]


def _sides(height: int, width: int) -> list[Side]:
    return [
        Side(down.stop - down.start, across.stop - across.start, plane == 0)
        for plane, down, across in _places(height, width)
    ]


def _cut(image: Image) -> list[Plane]:
    """The blocks of an image, views of its planes."""
    planes = ycbcr.to_planes(image, 2, 2)
    return [planes[plane][down, across] for plane, down, across in _places(*image.shape[:2])]


def _quantise_each(plane: Plane, steps: list[float]) -> list[Block]:
    """A block at each step."""
    mean = int(np.rint(plane.mean()))
    matrix = plane.astype(np.float64) - mean
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = np.ascontiguousarray(matrix.T) if is_tall else matrix
    factors = factorise(wide)
    return [_quantise(wide, factors, mean, step, is_tall) for step in steps]


def _quantise(wide: Matrix, factors: Factors, mean: int, step: float, is_tall: bool) -> Block:
    """The terms that are worth it at a step, their longer vectors fitted to the shorter ones as these were rounded.

    The rounded u are not quite orthonormal; the best v for them (least squares) take part of that back.
    """
    kept = int(np.count_nonzero(factors.values**2 > _KEPT * sum(wide.shape) * step**2))
    if kept == 0:
        return Block(mean)
    values = factors.values[:kept]
    scales = np.rint(4 * np.log2(values / step)).astype(int).tolist()
    weight = step * weights(scales)
    left = _rounded(factors.left[:, :kept] * np.sqrt(values / weight))
    basis = left * weight
    # integer vectors may depend on each other: a trace of a ridge then makes the shortest fit
    normal = basis.T @ basis + 1e-9 * step**2 * np.eye(kept)
    right = _rounded(np.linalg.solve(normal, basis.T @ wide))
    vectors = list(np.ascontiguousarray(left.T)), list(right)
    columns, rows = vectors[::-1] if is_tall else vectors
    return Block(mean, scales, columns, rows)


def _rounded(numbers: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    return np.clip(np.rint(numbers), -MOST, MOST).astype(np.int32)


def _read(contents: Contents) -> Prefix:
    """The image of as many ranks as are there: all of them, or fewer where the file is cut off."""
    height, width = contents.height, contents.width
    sides = _sides(height, width)
    body = read_body(contents.body, sides, contents.is_whole)
    return Prefix(_image(body, height, width, sides), body.held, body.whole)


def _image(body: Body, height: int, width: int, sides: list[Side]) -> Image:
    rows, columns = -(-height // 2), -(-width // 2)
    planes = ycbcr.Planes(
        np.empty((height, width), np.uint8),
        np.empty((rows, columns), np.uint8),
        np.empty((rows, columns), np.uint8),
    )
    with one_blas_thread():
        for (plane, down, across), side, block in zip(_places(height, width), sides, body.blocks, strict=True):
            planes[plane][down, across] = block.pixels(side, body.steps[not side.is_luma])
    return to_rgb(planes, height, width)
