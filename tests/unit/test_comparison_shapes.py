"""Orders of the codecs that a correct build shows on real photos, as published comparisons have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from limla.codecs import build_codec
from limla.comparison import CompareResult, CompareSettings, compare
from limla.registry import CODECS

pytestmark = pytest.mark.slow
_COMPARED = ("jpeg", "webp", "avif", "hevc")


@pytest.fixture(scope="module")
def result(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    codecs = tuple(name for name in _COMPARED if name in CODECS.plugs)
    folder = tmp_path_factory.mktemp("compared")
    return compare(CompareSettings(flowers, folder, codecs, num_images=3, num_points=4, rates_bpp=(0.1, 2.5)))


@pytest.fixture
def bd_rate(result: CompareResult) -> Callable[[str], float]:
    """BD-rate against JPEG in percent, mean of the photos'."""
    found = {row.codec: row.image_bd_rate_percent for row in result.differences}

    def of(codec: str) -> float:
        value = found[codec]
        assert value is not None
        return value

    return of


def test_webp_needs_fewer_bits_than_jpeg(bd_rate: Callable[[str], float]) -> None:
    assert bd_rate("webp") < -10


@pytest.mark.parametrize("codec", ["avif", "hevc"])
def test_intra_coding_of_video_needs_fewer_bits_than_webp(bd_rate: Callable[[str], float], codec: str) -> None:
    assert bd_rate(codec) < bd_rate("webp") - 5


@pytest.fixture(scope="module")
def low_rank(flowers: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    """More points about where the curves cross, which few photos and points place badly: they run nearly parallel."""
    folder = tmp_path_factory.mktemp("low-rank")
    codecs = ("svd", "lowrank")
    return compare(
        CompareSettings(flowers, folder, codecs, num_images=8, seed=1, num_points=5, rates_bpp=(0.15, 1.5))
    )


@pytest.mark.parametrize(
    ("codec", "crossing_bpp", "most_bd_psnr_db"), [("lowrank", (0.25, 0.45), -0.1), ("svd", (0.25, 0.40), -0.4)]
)
def test_low_rank_codecs_beat_jpeg_at_its_lowest_rates_alone(
    low_rank: CompareResult, codec: str, crossing_bpp: tuple[float, float], most_bd_psnr_db: float
) -> None:
    """JPEG cannot spend less on a block than its end-of-block codes, nor less on a file than its tables."""
    (row,) = (row for row in low_rank.differences if row.codec == codec)
    assert row.bd_psnr_db is not None
    assert row.bd_psnr_db < most_bd_psnr_db, "less PSNR over the rates that both reach"
    (crossing,) = (crossing for crossing in low_rank.crossings if crossing.codec == codec)
    assert crossing.better == "below"
    assert crossing_bpp[0] < crossing.rate_bpp < crossing_bpp[1]


def test_jpeg_spends_an_eighth_of_a_bit_per_pixel_on_nothing() -> None:
    """Four blocks of luma at 2 + 4 bits and two of chroma at 2 + 2 for each 16 × 16 pixels (T.81, annex K.3)."""
    small, large = (
        len(build_codec("jpeg").encode(np.full((*sides, 3), 128, np.uint8), 1))
        for sides in ((240, 320), (480, 640))
    )
    assert 8 * (large - small) == (480 * 640 - 240 * 320) / 8
    assert 600 <= small - 240 * 320 / 64 < 650, "the tables"
