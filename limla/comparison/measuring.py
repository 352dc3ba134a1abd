"""One codec at one quality: every photo encoded, decoded, timed and compared with what it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from limla.comparison.choosing import Contender
from limla.comparison.photos import DrawnPhoto
from limla.errors import LimlaError
from limla.metrics import ms_ssim, psnr_db, rate_bpp, ssim
from limla.types import Image

_HELD_PIXELS = 1 << 25
"""About so many pixels are held decoded at a time, twice: 200 MB."""


@dataclass(frozen=True)
class ComparisonRow:
    """One photo by one codec at one quality.

    Attributes:
        image: name of the photo.
        codec: label of the codec (`limla.codecs.codec_label`).
        quality: the codec's native knob.
        height, width: pixels.
        num_bytes: of the whole file, headers included.
        rate_bpp: 8 · num_bytes / (height · width).
        psnr_db: infinite for identical pixels.
        ssim, ms_ssim: on luma; None where the photo is too small for their windows.
        encode_cpu_s, decode_cpu_s: CPU seconds of the whole process, in which nothing else was at work.
    """

    image: str
    codec: str
    quality: int
    height: int
    width: int
    num_bytes: int
    rate_bpp: float
    psnr_db: float
    ssim: float | None
    ms_ssim: float | None
    encode_cpu_s: float
    decode_cpu_s: float


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
ROW_SCHEMA = pa.schema(
    [
        pa.field(name, _TYPES[str(kind)], nullable="None" in str(kind))
        for name, kind in ComparisonRow.__annotations__.items()
    ]
)


def row_table(rows: Sequence[ComparisonRow]) -> pa.Table:
    """Rows as an Arrow table of `ROW_SCHEMA`."""
    columns = {name: [getattr(row, name) for row in rows] for name in ROW_SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=ROW_SCHEMA)


def measure(
    contender: Contender,
    quality: int,
    photos: Sequence[DrawnPhoto],
    pool: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> list[ComparisonRow]:
    """The rows of all photos, in order.

    `pool` decodes the photos and measures distortion; in between this thread alone encodes and decodes, so that the
    process's CPU time is the codec's. Raises `LimlaError` naming the codec and the photo that it cannot do.
    """
    rows: list[ComparisonRow] = []
    for group in _groups(photos):
        images = list(pool.map(lambda drawn: drawn.photo.pixels(), group))
        coded = [_coded(contender, quality, drawn, image) for drawn, image in zip(group, images, strict=True)]
        pairs = [(image, each.decoded) for image, each in zip(images, coded, strict=True)]
        for drawn, each, distortion in zip(group, coded, pool.map(_distortion, pairs), strict=True):
            height, width = drawn.height, drawn.width
            rate = rate_bpp(each.num_bytes, height, width)
            costs = (each.encode_cpu_s, each.decode_cpu_s)
            measured = (height, width, each.num_bytes, rate, *distortion, *costs)
            rows.append(ComparisonRow(drawn.photo.name, contender.label, quality, *measured))
            advance(1)
    return rows


def _groups(photos: Sequence[DrawnPhoto]) -> Iterator[list[DrawnPhoto]]:
    """The photos in groups of about `_HELD_PIXELS` pixels, at least one in each."""
    group: list[DrawnPhoto] = []
    num_pixels = 0
    for drawn in photos:
        if group and num_pixels + drawn.height * drawn.width > _HELD_PIXELS:
            yield group
            group, num_pixels = [], 0
        group.append(drawn)
        num_pixels += drawn.height * drawn.width
    if group:
        yield group


class _Coded(NamedTuple):
    """What one photo costs, and the pixels that come back."""

    num_bytes: int
    decoded: Image
    encode_cpu_s: float
    decode_cpu_s: float


def _coded(contender: Contender, quality: int, drawn: DrawnPhoto, image: Image) -> _Coded:
    where = f"{contender.label} at {quality}, photo {drawn.photo.name}"
    try:
        start = time.process_time()
        data = contender.codec.encode(image, quality)
        middle = time.process_time()
        decoded = contender.codec.decode(data)
        end = time.process_time()
    except LimlaError as error:
        raise type(error)(f"{where}: {error}") from error
    assert decoded.shape == image.shape, f"{where}: {image.shape} came back as {decoded.shape}"
    return _Coded(len(data), decoded, middle - start, end - middle)


def _distortion(pair: tuple[Image, Image]) -> tuple[float, float | None, float | None]:
    one, several = ssim(*pair), ms_ssim(*pair)
    return psnr_db(*pair), None if math.isnan(one) else one, None if math.isnan(several) else several


def warm_up(contender: Contender, quality: int, image: Image) -> None:
    """Encode and decode once, untimed: libraries are loaded and kernels compiled at the first call."""
    contender.codec.decode(contender.codec.encode(image, quality))
