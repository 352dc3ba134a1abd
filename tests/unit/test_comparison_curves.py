"""Curves of rate and distortion on codecs whose every number is known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from limla.codecs.base import QualityScale
from limla.comparison.choosing import spread_qualities
from limla.comparison.curves import (
    UNCHANGED,
    Curve,
    _mean_interval,
    crossings,
    curve_of,
    difference,
    quality_mean,
)
from limla.comparison.measuring import ComparisonRow
from limla.comparison.page import better_text
from limla.types import Image

_RATES = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])


def _curve(codec: str, psnr_of: Callable[[np.ndarray], np.ndarray], rates: np.ndarray = _RATES) -> Curve:
    """Eight photos, each with its own rates and offset."""
    generator = np.random.default_rng(3)
    photo_rates = rates[:, None] * generator.uniform(0.8, 1.25, 8)
    psnrs = psnr_of(photo_rates) + generator.normal(0, 0.5, 8)
    return Curve(codec, tuple(range(len(rates))), photo_rates, psnrs)


def _line(rates: np.ndarray) -> np.ndarray:
    """6 dB for each doubling of the rate, 30 dB at 1 bit per pixel."""
    return 30 + 6 * np.log2(rates)


def test_half_the_bits_are_minus_fifty_percent() -> None:
    reference = _curve("jpeg", _line)
    found = difference(Curve("half", reference.qualities, reference.rates / 2, reference.psnrs), reference)
    assert found.bd_rate_percent == pytest.approx(-50, abs=1e-6)
    assert found.image_bd_rate_percent == pytest.approx(-50, abs=1e-6)
    assert found.bd_rate_low == pytest.approx(-50, abs=1e-6)
    assert found.bd_rate_high == pytest.approx(-50, abs=1e-6)
    assert found.bd_psnr_db == pytest.approx(6, abs=0.3)
    assert (found.num_compared, found.num_images) == (8, 8)
    assert found.psnr_low_db == pytest.approx(reference.psnrs.mean(axis=1).min())
    assert found.better_share == 1.0
    assert found.largest_gap_db == pytest.approx(6, abs=0.5)
    assert found.reason == ""


@pytest.mark.parametrize("num_photos", [6, 24])
def test_intervals_of_the_photos_mean_cover_it(num_photos: int) -> None:
    """A percentile bootstrap covers 83% with six photos such as these."""
    generator = np.random.default_rng(5)
    truth = 100 * math.expm1(-0.5 + 0.3**2 / 2)
    num_covered, num_draws = 0, 1000
    for _ in range(num_draws):
        found = _mean_interval(100 * np.expm1(generator.normal(-0.5, 0.3, num_photos)))
        assert found.low > -100
        num_covered += found.low <= truth <= found.high
    assert 0.925 < num_covered / num_draws < 0.975


def test_the_interval_of_a_mean_is_students_on_the_log_scale() -> None:
    values = np.array([-60.0, -50.0, -40.0, -55.0, -45.0])
    found = _mean_interval(values)
    # 2.7764: the 97.5% point of Student's t with 4 degrees of freedom; the values' deviation is 7.9057
    half = 2.7764 * 7.9057 / math.sqrt(5) / 50
    assert found.low == pytest.approx(100 * (0.5 * math.exp(-half) - 1), abs=0.01)
    assert found.high == pytest.approx(100 * (0.5 * math.exp(half) - 1), abs=0.01)
    assert math.isnan(_mean_interval(values[:4]).low), "four say nothing of others"


def test_at_all_rates_is_said_of_all_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limla.comparison.curves._NUM_RESAMPLES", 10)  # no interval is looked at
    reference = _curve("jpeg", _line)

    def said(psnr_of: Callable[[np.ndarray], np.ndarray]) -> str:
        curve = _curve("codec", psnr_of)
        return better_text(difference(curve, reference), crossings(curve, reference))

    def tilted(slope: float, zero_bpp: float) -> str:
        """Above JPEG's curve at rates over `zero_bpp`, by `slope` dB for each doubling."""
        return said(lambda rates: _line(rates) + slope * np.log2(rates / zero_bpp))

    assert said(lambda rates: _line(rates) + 1) == "at all rates"
    assert said(lambda rates: _line(rates) - 1) == "at no rate"
    assert said(lambda rates: _line(rates) + 0.04) == "within 0.1 dB"
    assert said(lambda rates: _line(rates) + 0.04 * np.sin(9 * rates)) == "within 0.1 dB"
    assert re.fullmatch(r"at 9[0-9]%, elsewhere within 0\.1 dB", tilted(0.2, 0.125))
    assert re.fullmatch(r"at [1-9]%, there within 0\.1 dB", tilted(-0.2, 0.125))
    assert re.fullmatch(r"at 3[0-9]%: below 0\.3[0-9]+ bpp", tilted(-2, 0.35))


def test_curves_without_shared_psnr_have_no_bd_rate() -> None:
    reference = _curve("jpeg", _line)
    found = difference(_curve("far", lambda rates: _line(rates) + 60), reference)
    assert found.bd_rate_percent is found.bd_rate_low is found.image_bd_rate_percent is None
    assert found.psnr_low_db is found.psnr_high_db is None
    assert found.num_compared == 0
    assert "no BD-rate" in found.reason
    assert found.bd_psnr_db == pytest.approx(60, abs=1e-6), "the rates are shared"


def test_where_curves_cross() -> None:
    reference = _curve("jpeg", _line)
    flatter = _curve("flat", lambda rates: 30 + 3 * np.log2(rates) + 3 * math.log2(0.5))
    (found,) = crossings(flatter, reference)
    assert found.rate_bpp == pytest.approx(0.5, rel=0.03)
    assert found.better == "below"
    assert found.psnr_db == pytest.approx(_line(np.array(0.5)), abs=0.6)
    share = difference(flatter, reference).better_share
    assert share == pytest.approx(math.log(0.5 / 0.1) / math.log(3.2 / 0.1), abs=0.03)
    (back,) = crossings(reference, flatter)
    assert back.better == "above"
    # a curve that comes no nearer than the other, or lies on it, crosses nothing
    assert crossings(_curve("better", lambda rates: _line(rates) + 1), reference) == []
    assert crossings(_curve("same", lambda rates: _line(rates) + 0.05 * np.sin(9 * rates)), reference) == []


def test_crossings_need_shared_rates() -> None:
    reference = _curve("jpeg", _line)
    far = _curve("far", _line, _RATES * 100)
    assert crossings(far, reference) == []
    found = difference(far, reference)
    assert found.rate_low_bpp is None
    assert found.better_share is found.largest_gap_db is None
    assert better_text(found, []) == ""


def _row(quality: int, image: str, rate: float, psnr: float, ms_ssim: float | None = 0.9) -> ComparisonRow:
    num_bytes = round(rate * 200 * 100 / 8)
    return ComparisonRow(
        image,
        "codec",
        quality,
        200,
        100,
        num_bytes,
        rate,
        psnr,
        0.8,
        ms_ssim,
        encode_cpu_s=0.01,
        decode_cpu_s=0.005,
    )


def test_unchanged_photos_have_no_part_in_curves() -> None:
    parts = {
        quality: [_row(quality, "a", rate, psnr), _row(quality, "b", rate, 40.0)]
        for quality, rate, psnr in ((9, 4.0, math.inf), (1, 0.5, 30.0), (5, 1.0, 35.0))
    }
    curve = curve_of("codec", parts)
    assert curve.qualities == (1, 5, 9)
    assert curve.finite().qualities == (1, 5)
    mean = quality_mean(parts[9])
    assert (mean.mean_psnr_db, mean.num_identical) == (40.0, 1)
    lossless = curve_of("codec", {9: parts[9]})
    found = difference(
        lossless, _curve("jpeg", _line).__class__("jpeg", (1,), np.ones((1, 2)), np.ones((1, 2)))
    )
    assert found.reason == UNCHANGED


def test_means_by_hand() -> None:
    rows = [_row(1, "a", 0.5, 30.0), _row(1, "b", 1.5, 34.0, None)]
    mean = quality_mean(rows)
    assert (mean.mean_rate_bpp, mean.mean_psnr_db, mean.mean_ms_ssim, mean.num_ms_ssim) == (1.0, 32.0, 0.9, 1)
    assert mean.encode_images_per_s == pytest.approx(100)
    assert mean.encode_mpix_per_s == pytest.approx(2)
    assert mean.decode_images_per_s == pytest.approx(200)


class _Doubling:
    """The rate halves with every 5 steps of a knob of which more is worse."""

    scale = QualityScale("QP", 0, 50, higher_is_better=False)

    def encode(self, image: Image, quality: int) -> bytes:
        return bytes(round(image.shape[0] * image.shape[1] * 2 ** (-quality / 5)))


def test_qualities_follow_the_scale_from_its_worst_end() -> None:
    images = [np.zeros((300, 400, 3), np.uint8)]
    codec: object = _Doubling()
    assert spread_qualities(codec, images, 6) == (50, 40, 30, 20, 10, 0)  # type: ignore[arg-type]
    # 8 bits per pixel at 0, 1 at 15, 0.25 at 25
    assert spread_qualities(codec, images, 4, (0.25, 2.0)) == (25, 20, 15, 10)  # type: ignore[arg-type]
    assert spread_qualities(codec, images, 99) == tuple(range(50, -1, -1))  # type: ignore[arg-type]
    assert spread_qualities(codec, images, 4, (9.0, 10.0)) == (0,)  # type: ignore[arg-type]
