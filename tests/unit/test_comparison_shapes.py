"""Orders of the codecs that a correct build shows on real photos, as published comparisons have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limla.comparison import CompareResult, CompareSettings, compare
from limla.registry import CODECS

pytestmark = pytest.mark.slow
_COMPARED = ("jpeg", "webp", "avif", "hevc", "svd", "lowrank")


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


@pytest.mark.parametrize("codec", ["svd", "lowrank"])
def test_low_rank_codecs_beat_jpeg_at_the_lowest_rates_alone(result: CompareResult, codec: str) -> None:
    (row,) = (row for row in result.differences if row.codec == codec)
    assert row.bd_psnr_db is not None
    assert row.bd_psnr_db < 0, "less PSNR over the rates that both reach"
    crossed = [crossing for crossing in result.crossings if crossing.codec == codec]
    assert [crossing.better for crossing in crossed] in ([], ["below"])
    # 4:2:0 JPEG's own lowest rates, qualities below about 8
    assert all(crossing.rate_bpp < 0.6 for crossing in crossed)
