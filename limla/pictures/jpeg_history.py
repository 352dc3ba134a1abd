"""What a JPEG file tells about the compression it went through, from its header."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# ITU-T T.81, Annex K, tables K.1 and K.2, row by row
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56), *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99), *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99), *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)  # fmt: skip
_SUBSAMPLINGS = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411", (1, 2): "440", (4, 2): "410"}


@dataclass(frozen=True)
class JpegHistory:
    """The compression a JPEG file tells of.

    Attributes:
        quality: 1 to 100 on the scale of the IJG's libjpeg; the nearest one when `standard` is False.
        standard: the quantisation tables are exactly the IJG's at that quality.
        luminance_sum: sum of the 64 luminance quantisation steps: larger is coarser.
        subsampling: chroma subsampling, "444", "422", "420", "411", "440", "410", "gray", else "<h>x<v>".
        progressive: several scans.
    """

    quality: int
    standard: bool
    luminance_sum: int
    subsampling: str
    progressive: bool


def jpeg_history(
    tables: Mapping[int, Sequence[int]], components: Sequence[tuple[int, int, int, int]], progressive: bool
) -> JpegHistory:
    """Read the history out of a header.

    Args:
        tables: number → 64 quantisation steps, row by row (Pillow's `quantization`).
        components: (identifier, horizontal factor, vertical factor, table number) of each (Pillow's `layer`).
        progressive: as the header says.

    Raises `ValueError` when a component's table is missing.
    """
    numbers = [component[3] for component in components[:2]]
    if not numbers or any(len(tables.get(number, ())) != 64 for number in numbers):
        raise ValueError("a quantisation table is missing")
    luminance = tuple(tables[numbers[0]])
    chrominance = tuple(tables[numbers[1]]) if len(components) >= 3 else None
    quality, standard = _estimate(luminance, chrominance)
    return JpegHistory(quality, standard, sum(luminance), _subsampling(components), progressive)


def _subsampling(components: Sequence[tuple[int, int, int, int]]) -> str:
    if len(components) < 3:
        return "gray"
    (_, width, height, _), (_, chroma_width, chroma_height, _) = components[:2]
    if width % chroma_width or height % chroma_height:
        return f"{width}x{height}:{chroma_width}x{chroma_height}"
    factors = (width // chroma_width, height // chroma_height)
    return _SUBSAMPLINGS.get(factors, f"{factors[0]}x{factors[1]}")


@functools.cache
def _standard_tables() -> npt.NDArray[np.int64]:
    """(100, 2, 64): the IJG's tables at quality 1 to 100, limited to 8 bits (libjpeg's jcparam.c)."""
    quality = np.arange(1, 101)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    base = np.array([_LUMINANCE, _CHROMINANCE], dtype=np.int64)
    return np.clip((base * percent + 50) // 100, 1, 255)


@functools.lru_cache(maxsize=4096)
def _estimate(luminance: tuple[int, ...], chrominance: tuple[int, ...] | None) -> tuple[int, bool]:
    """The quality whose tables are nearest (sum of absolute differences), and whether they are the same."""
    wanted = [luminance] if chrominance is None else [luminance, chrominance]
    distance = np.abs(_standard_tables()[:, : len(wanted)] - np.array(wanted)).sum(axis=(1, 2))
    best = int(distance.argmin())
    return best + 1, bool(distance[best] == 0)
