"""Intervals: values from the literature, equality with scipy, and that they cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from limla.statistics import cramers_v, macro_score_intervals, mean_interval, proportion_interval


def test_wilson_by_hand() -> None:
    # the closed form: (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    k, n, z = 8, 10, stats.norm.ppf(0.975)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert proportion_interval(k, n) == pytest.approx((centre - half, centre + half))
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263
    assert proportion_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert proportion_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_in_bounds_around_the_estimate(case: tuple[int, int]) -> None:
    successes, samples = case
    low, high = proportion_interval(successes, samples)
    assert 0 <= low <= successes / samples + 1e-12
    assert successes / samples - 1e-12 <= high <= 1
    wider = proportion_interval(successes, samples, confidence=0.99)
    assert wider.low <= low
    assert high <= wider.high
    mirrored = proportion_interval(samples - successes, samples)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_no_samples_no_interval_and_impossible_counts_are_refused() -> None:
    assert all(math.isnan(end) for end in proportion_interval(0, 0))
    for successes, samples in ((3, 2), (-1, 2), (1, 0)):
        with pytest.raises(ValueError, match="impossible"):
            proportion_interval(successes, samples)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("n", [40, 200])
def test_wilson_covers_95_percent(p: float, n: int) -> None:
    """Exactly: the binomial weight of the outcomes whose interval holds p."""
    outcomes = np.arange(n + 1)
    weights = stats.binom.pmf(outcomes, n, p)
    covered = [low <= p <= high for low, high in (proportion_interval(int(k), n) for k in outcomes)]
    assert 0.92 <= weights[covered].sum() <= 0.99


def test_mean_interval_is_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    low, high = mean_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    for few in ([], [1.0]):
        assert all(math.isnan(end) for end in mean_interval(few))


def test_mean_interval_covers_95_percent() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        low, high = mean_interval(generator.normal(2.0, 3.0, size=8))
        hits += low <= 2.0 <= high
    assert 930 <= hits <= 970


def test_macro_intervals_cover_what_they_promise() -> None:
    """True scores from a known table of probabilities; the interval must hold them about 95 times in 100."""
    probabilities = np.array([[0.25, 0.05, 0.03], [0.04, 0.26, 0.03], [0.02, 0.07, 0.25]])
    diagonal = np.diag(probabilities)
    precision = (diagonal / probabilities.sum(axis=0)).mean()
    recall = (diagonal / probabilities.sum(axis=1)).mean()
    f1 = (2 * diagonal / (probabilities.sum(axis=0) + probabilities.sum(axis=1))).mean()
    generator = np.random.default_rng(1)
    hits = np.zeros(3)
    for _ in range(300):
        confusion = generator.multinomial(300, probabilities.ravel()).reshape(3, 3)
        intervals = macro_score_intervals(confusion, num_resamples=400)
        hits += [
            low <= true <= high for (low, high), true in zip(intervals, (precision, recall, f1), strict=True)
        ]
    assert (hits >= 0.91 * 300).all(), hits
    assert (hits <= 0.985 * 300).all(), hits


def test_macro_intervals_are_seeded_and_narrow_with_samples() -> None:
    confusion = np.array([[30, 5], [10, 55]])
    assert macro_score_intervals(confusion) == macro_score_intervals(confusion)
    assert macro_score_intervals(confusion) != macro_score_intervals(confusion, seed=1)
    few, many = macro_score_intervals(confusion), macro_score_intervals(confusion * 100)
    for small, large in zip(few, many, strict=True):
        assert (large.high - large.low) < (small.high - small.low) / 5


@pytest.mark.parametrize(
    ("confusion", "is_known"),
    [
        ([[0, 0], [0, 0]], False),
        ([[50, 0], [0, 90]], False),  # every resample would be right on all: an interval of no width
        ([[0, 50], [90, 0]], False),
        ([[50, 1], [1, 90]], False),
        ([[50, 2], [1, 90]], True),
        ([[1, 50], [90, 1]], False),
        ([[1, 50], [90, 2]], True),
    ],
)
def test_macro_intervals_need_some_images_right_and_some_wrong(
    confusion: list[list[int]], is_known: bool
) -> None:
    intervals = macro_score_intervals(np.array(confusion))
    assert [math.isfinite(end) for interval in intervals for end in interval] == [is_known] * 6
    assert not is_known or all(low < high for low, high in intervals)


def test_cramers_v_by_hand() -> None:
    independent = np.outer([10, 20, 30], [3, 5])
    assert cramers_v(independent) == (0.0, pytest.approx(1.0))
    strength, p_value = cramers_v(np.diag([50, 50, 50]))
    assert strength == pytest.approx(1.0, abs=0.01)
    assert p_value < 1e-20
    # one value only, empty rows and columns, nothing at all
    assert cramers_v(np.array([[5, 7]])) == (0.0, 1.0)
    assert cramers_v(np.array([[5, 0], [7, 0]])) == (0.0, 1.0)
    assert cramers_v(np.zeros((2, 2), np.int64)) == (0.0, 1.0)
    with_zeros = np.zeros((4, 4), np.int64)
    with_zeros[:3, :3] = np.diag([50, 50, 50])
    assert cramers_v(with_zeros) == cramers_v(np.diag([50, 50, 50]))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=2, max_size=5))
def test_cramers_v_lies_between_0_and_1_and_has_no_sides(rows: list[list[int]]) -> None:
    table = np.array(rows, np.int64)
    strength, p_value = cramers_v(table)
    assert 0 <= strength <= 1 + 1e-9
    assert 0 <= p_value <= 1
    assert cramers_v(table.T) == pytest.approx((strength, p_value), abs=1e-9)


def test_cramers_v_of_unrelated_variables_is_near_zero() -> None:
    """The correction's purpose: without it, a 10 × 5 table of noise has V ≈ 0.15 at 400 samples."""
    generator = np.random.default_rng(2)
    found = [cramers_v(generator.multinomial(400, np.full(50, 0.02)).reshape(10, 5))[0] for _ in range(100)]
    assert np.mean(found) < 0.06
