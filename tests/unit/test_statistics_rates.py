"""Bjøntegaard's deltas: published numbers, refusals with a reason, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from limla.errors import SettingsError
from limla.statistics import bd_interval, bd_metrics

RATES = np.array([0.2, 0.4, 0.8, 1.6, 3.2])
SCORES = np.array([0.55, 0.72, 0.82, 0.87, 0.89])
# the example of the bjontegaard package's page: libx265 at two presets
LIBX265 = (
    [9487.76, 4593.60, 2486.44, 1358.24],
    [40.037, 38.615, 36.845, 34.851],
    [9787.80, 4469.00, 2451.52, 1356.24],
    [40.121, 38.651, 36.970, 34.987],
)


def test_known_differences() -> None:
    """A curve with a tenth less rate everywhere, and one with a hundredth more score, by construction."""
    cheaper = bd_metrics(RATES, SCORES, 0.9 * RATES, SCORES)
    assert cheaper.bd_rate_percent == pytest.approx(-10)
    better = bd_metrics(RATES, SCORES, RATES, SCORES + 0.01)
    assert better.bd_score == pytest.approx(0.01)
    same = bd_metrics(RATES, SCORES, RATES, SCORES)
    assert (same.bd_rate_percent, same.bd_score) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-12))
    assert (same.overlap, same.rate_overlap, same.reason) == (1, 1, "")


@pytest.mark.parametrize(("method", "rate", "score"), [("pchip", -4.42, 0.119), ("akima", -4.42, 0.119)])
def test_video_codecs(method: str, rate: float, score: float) -> None:
    found = bd_metrics(*LIBX265, method=method)  # type: ignore[arg-type]
    assert found.bd_rate_percent == pytest.approx(rate, abs=0.1)
    assert found.bd_score == pytest.approx(score, abs=0.005)
    back = bd_metrics(*LIBX265[2:], *LIBX265[:2], method=method)  # type: ignore[arg-type]
    assert back.bd_score == pytest.approx(-(found.bd_score or 0))
    assert (1 + (back.bd_rate_percent or 0) / 100) * (1 + (found.bd_rate_percent or 0) / 100) == pytest.approx(
        1
    )


def test_the_order_of_points_does_not_matter_and_their_numbers_may_differ() -> None:
    order = np.array([3, 0, 4, 1, 2])
    one = bd_metrics(RATES, SCORES, 0.9 * RATES, SCORES)
    assert bd_metrics(RATES[order], SCORES[order], 0.9 * RATES, SCORES) == one
    fewer = bd_metrics(RATES, SCORES, 0.9 * RATES[:4], SCORES[:4])
    assert fewer.bd_rate_percent == pytest.approx(-10, abs=1)


def test_noise_that_lowers_a_score_is_pooled_and_said() -> None:
    noisy = SCORES.copy()
    noisy[2], noisy[3] = noisy[3], noisy[2]
    found = bd_metrics(RATES, SCORES, RATES, noisy)
    assert (found.num_pooled_a, found.num_pooled_b) == (0, 1)
    assert found.bd_rate_percent == pytest.approx(0, abs=5)
    assert found.bd_score is not None  # needs no order of the scores
    falling = bd_metrics(RATES, SCORES, RATES, SCORES[::-1])
    assert falling.bd_rate_percent is None
    assert "rises over only 1 of its points" in falling.reason


@pytest.mark.parametrize(
    ("rates", "scores", "reason"),
    [
        (RATES[:3], SCORES[:3], "the second curve has 3 points, 4 are needed"),
        (RATES * 0, SCORES, "not above 0"),
        (RATES, SCORES * math.nan, "not finite"),
        (RATES[[0, 1, 2, 3, 3]], SCORES, "two points of the same rate"),
        (RATES, SCORES - 0.4, "share 0% of their scores"),
        (RATES * 100, SCORES, "share 0% of their rates"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_reason(
    rates: np.ndarray, scores: np.ndarray, reason: str
) -> None:
    found = bd_metrics(RATES, SCORES, rates, scores)
    assert None in (found.bd_rate_percent, found.bd_score)
    assert reason in found.reason
    turned = bd_metrics(rates, scores, RATES, SCORES)
    assert None in (turned.bd_rate_percent, turned.bd_score)
    # curves far apart in score may well be compared at equal rates
    if "scores" in reason:
        assert found.bd_score == pytest.approx(-0.4)


def test_bad_arguments_are_mistakes() -> None:
    for wrong in ({"method": "cubic"}, {"min_overlap": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            bd_metrics(RATES, SCORES, RATES, SCORES, **wrong)
    with pytest.raises(ValueError, match="no curve"):
        bd_metrics(RATES, SCORES[:4], RATES, SCORES)


def measured(seed: int, num_seeds: int, num_images: int, spread: float = 0.0) -> np.ndarray:
    """(Q, S, N) outcomes with SCORES as true accuracies; difficulty is the image's."""
    generator = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).random(num_images) * 0.8 + 0.2 * generator.random(
        (num_seeds, num_images)
    )
    shift = spread * generator.standard_normal((num_seeds, 1))
    return np.argsort(np.argsort(difficulty)) / num_images < SCORES[:, None, None] + shift


def test_the_interval_pairs_the_curves_by_image() -> None:
    curve = measured(0, 1, 300)
    found = bd_interval(RATES, curve, 0.9 * RATES, curve, num_resamples=100)
    # the same outcomes at a tenth less rate: no image sampled more or less changes that
    assert found.bd_rate_percent == pytest.approx((-10, -10))
    assert found.result.bd_rate_percent == pytest.approx(-10)
    other = measured(1, 1, 300)
    paired = bd_interval(RATES, curve, RATES, other, num_resamples=200)
    apart = bd_interval(
        RATES, curve, RATES, other[..., np.random.default_rng(0).permutation(300)], num_resamples=200
    )
    assert paired.bd_score.high - paired.bd_score.low < 0.7 * (apart.bd_score.high - apart.bd_score.low)
    assert paired.bd_score.low < (paired.result.bd_score or 0) < paired.bd_score.high


def test_rates_per_image_are_resampled_too_and_groups_stay_together() -> None:
    curve = measured(0, 1, 300)
    per_image = RATES[:, None] * np.random.default_rng(0).gamma(4, 0.25, size=300)
    plain = bd_interval(per_image.mean(axis=1), curve, per_image.mean(axis=1) * 0.9, curve, num_resamples=100)
    with_rates = bd_interval(per_image, curve, 0.9 * per_image, curve, num_resamples=100)
    assert with_rates.result.bd_rate_percent == pytest.approx(plain.result.bd_rate_percent)
    other = RATES[:, None] * np.random.default_rng(1).gamma(4, 0.25, size=300)
    free = bd_interval(per_image, curve, other, curve, num_resamples=100)
    assert free.bd_rate_percent.high - free.bd_rate_percent.low > 5
    twice = bd_interval(
        RATES, np.repeat(curve, 2, axis=2), RATES, np.repeat(measured(1, 1, 300), 2, axis=2),
        groups=np.repeat(np.arange(300), 2), num_resamples=200,
    )  # fmt: skip
    once = bd_interval(RATES, curve, RATES, measured(1, 1, 300), num_resamples=200)
    assert twice.bd_score == pytest.approx(once.bd_score)


def test_seeds_that_differ_widen_the_interval() -> None:
    alike = bd_interval(RATES, measured(0, 3, 400), RATES, measured(1, 3, 400), num_resamples=200)
    apart = bd_interval(RATES, measured(0, 3, 400, 0.02), RATES, measured(1, 3, 400, 0.02), num_resamples=200)
    assert apart.bd_score.high - apart.bd_score.low > 2 * (alike.bd_score.high - alike.bd_score.low)
    # two curves with different numbers of trainings share no seeds
    mixed = bd_interval(RATES, measured(0, 3, 400, 0.02), RATES, measured(1, 1, 400), num_resamples=200)
    assert mixed.bd_score.high - mixed.bd_score.low > 0.005


def test_refused_in_many_resamples_is_no_interval() -> None:
    flat = np.random.default_rng(0).random((5, 1, 60)) < 0.6
    found = bd_interval(RATES, flat, RATES, flat[::-1], num_resamples=100)
    assert found.refused_rate > 0.05
    assert all(math.isnan(end) for end in found.bd_rate_percent)


def test_shapes_that_do_not_fit() -> None:
    curve = measured(0, 1, 30)
    for rates, scores in ((RATES, curve[:, 0]), (RATES[:4], curve), (RATES, curve[..., :20])):
        with pytest.raises(ValueError, match=r"shape|paired"):
            bd_interval(RATES, curve, rates, scores)
