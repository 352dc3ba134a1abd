"""Paired differences: textbook values, what must hold for any data, and that certainty is never pretended."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from limla.errors import SettingsError
from limla.statistics import PairedDifference, paired_difference, paired_score_interval
from limla.statistics.crossed import crossed_mean, resampled_means
from limla.statistics.paired import sign_flip_p_value

Bools = npt.NDArray[np.bool_]


def outcomes(kept: int, lost: int, gained: int, wrong: int) -> tuple[Bools, Bools]:
    """Before and after, (1, N), with such counts."""
    before = np.repeat([True, True, False, False], [kept, lost, gained, wrong])
    after = np.repeat([True, False, True, False], [kept, lost, gained, wrong])
    return before[None], after[None]


def flipped(seed: int, num_seeds: int, num_images: int, rate: float) -> tuple[Bools, Bools]:
    generator = np.random.default_rng(seed)
    before = generator.random((num_seeds, num_images)) < 0.8
    return before, before ^ (generator.random((num_seeds, num_images)) < rate)


def test_mcnemar_by_hand() -> None:
    # Agresti, Categorical Data Analysis (2nd ed., 2002), table 10.1: 150 and 86 of 1600 changed their opinion
    found = paired_difference(*outcomes(794, 150, 86, 570))
    assert found.p_value == pytest.approx(stats.chi2.sf(63**2 / 236, 1))
    assert found.test == "McNemar chi-square"
    assert (found.num_lost, found.num_gained, found.num_images) == (150, 86, 1600)
    assert found.difference == pytest.approx(-0.04)
    assert found.flip_rate == pytest.approx(236 / 1600)
    # Agresti's Wald interval, -0.059 to -0.021; a bootstrap of 236 events differs in the third digit
    assert (found.low, found.high) == pytest.approx((-0.059, -0.021), abs=0.0015)
    # exact: 2 · P(Bin(12, ½) ≤ 3) = 2 · 299 / 4096
    found = paired_difference(*outcomes(20, 9, 3, 8))
    assert (found.p_value, found.test) == (pytest.approx(598 / 4096), "McNemar exact")


def test_tango_against_published_and_closed_forms() -> None:
    # Bentur et al. (2009) as given by Fagerland, Lydersen & Laake, Statistics in Medicine 33, 2014: -0.517 to -0.026
    assert paired_score_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    z2 = stats.norm.ppf(0.975) ** 2
    for n in (10, 120, 5000):  # no flips: ± z² / (n + z²)
        assert paired_score_interval(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)
    assert paired_score_interval(30, 0, 30) == pytest.approx(((30 - z2) / (30 + z2), 1), abs=1e-9)
    with pytest.raises(ValueError, match="impossible"):
        paired_score_interval(3, 3, 5)


@pytest.mark.parametrize(("gained", "lost", "n"), [(2, 9, 60), (0, 4, 120), (40, 20, 160), (1, 1, 30)])
def test_tango_is_the_inverted_score_test(gained: int, lost: int, n: int) -> None:
    """At each end the score statistic, with the nuisance at its numerical maximum likelihood, is ±1.96."""
    for end, sign in zip(paired_score_interval(gained, lost, n), (1, -1), strict=True):

        def minus_log_likelihood(share_lost: float, end: float = end) -> float:
            share_gained = share_lost + end
            rest = 1 - share_lost - share_gained
            terms = ((gained, share_gained), (lost, share_lost), (n - gained - lost, rest))
            return -sum(count * math.log(share) for count, share in terms if count)

        low, high = max(0.0, -end), (1 - end) / 2
        best = minimize_scalar(
            minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        )
        variance = n * (2 * best.x + end * (1 - end))
        assert (gained - lost - n * end) / math.sqrt(variance) == pytest.approx(sign * 1.95996, abs=2e-3)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_no_flips_are_no_certainty(num_seeds: int) -> None:
    same = np.ones((num_seeds, 120), bool)
    found = paired_difference(same, same)
    assert (found.difference, found.p_value, found.flip_rate, found.interval_method) == (0, 1, 0, "score")
    # seeds that agree are 120 images still
    assert (-found.low, found.high) == pytest.approx((0.0310, 0.0310), abs=1e-4)
    # six losses are the fewest that are significant: 120 images show them in about 80% of samples from 6.5% on
    assert stats.binom.sf(5, 120, found.detectable) == pytest.approx(0.8, abs=0.05)
    lost = paired_difference(same, ~same)
    assert (lost.low, lost.interval_method) == (-1, "score")
    assert lost.high > -0.97
    assert found.low < found.high
    assert lost.p_value < 1e-25


def test_bootstrap_is_scipys() -> None:
    before, after = flipped(1, 1, 600, 0.15)
    change = after[0].astype(float) - before[0]
    theirs = stats.bootstrap(
        (change,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    )
    found = paired_difference(before, after, num_resamples=5000)
    assert found.interval_method == "bootstrap"
    # a multiple of 1/600 apart by chance, and Student's t is 0.2% wider than the normal
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval, abs=2.5 / 600)
    floats = paired_difference(before + 0.25, after + 0.0)
    t = stats.ttest_1samp(change - 0.25, 0)
    assert (floats.p_value, floats.test) == (pytest.approx(float(t.pvalue)), "t")


def test_crossed_mean_is_the_analysis_of_variance() -> None:
    """By hand: 2 seeds × 3 images."""
    table = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 11.0]])
    found = crossed_mean(table)
    assert found.mean == 4.5
    # sums of squares: seeds 13.5, images 49 (means 2, 3, 8.5 around 4.5: 2 · (6.25 + 2.25 + 16)), rest 3
    seeds, images, rest = 13.5 / 1, 49 / 2, 3 / 2
    assert found.image_variance == pytest.approx(images / 6)
    assert found.seed_variance == pytest.approx((seeds - rest) / 6)
    assert found.standard_error**2 == pytest.approx((seeds + images - rest) / 6)
    weight = seeds / (seeds + images - rest)
    wanted = weight * stats.t.ppf(0.975, 1) + (1 - weight) * stats.t.ppf(0.975, 2)
    assert found.critical(0.95) == pytest.approx(wanted)
    # seeds that differ less than chance have them differ: no part of their own
    assert crossed_mean(np.array([[1.0, 2.0, 6.0], [2.0, 1.0, 6.0]])).seed_variance == 0


def test_seeds_that_differ_widen_the_interval_and_outweigh_many_images() -> None:
    generator = np.random.default_rng(5)
    before = np.ones((3, 2000), bool)
    after = generator.random((3, 2000)) > np.array([[0.02], [0.08], [0.14]])
    found = paired_difference(before, after)
    assert found.seed_variance > 0.9 * found.standard_error**2
    assert found.degrees_of_freedom < 2.5
    assert found.low < -0.2 < 0 < found.high
    assert found.p_value == pytest.approx(0.15, abs=0.05)
    alone = paired_difference(before[1:2], after[1:2])
    assert alone.p_value < 1e-20  # of that model, there is no doubt


def test_sign_flips_are_mcnemar_for_single_rows_and_enumeration_for_clusters() -> None:
    assert sign_flip_p_value(np.array([1.0] * 3 + [-1.0] * 9 + [0.0] * 30)) == pytest.approx(598 / 4096)
    sums = np.array([3.0, 2.0, 2.0, -1.0, 1.0, 1.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    assert sign_flip_p_value(sums) == pytest.approx(np.mean(np.abs(sums @ signs) >= abs(sums.sum())))
    assert sign_flip_p_value(np.zeros(5)) == 1


def test_views_of_one_image_are_one_event() -> None:
    before, after = outcomes(85, 5, 0, 10)
    repeated = [np.repeat(scores, 6, axis=1) for scores in (before, after)]
    groups = np.repeat(np.arange(100), 6)
    found = paired_difference(*repeated, groups=groups)
    assert (found.num_sources, found.num_images, found.num_lost, found.test) == (100, 600, 30, "sign flips")
    assert found.p_value == pytest.approx(paired_difference(before, after).p_value) == pytest.approx(2 / 32)
    assert paired_difference(*repeated).p_value < 1e-6  # what comes of taking copies for data
    single = paired_difference(before, after)
    assert (found.low, found.high) == pytest.approx((single.low, single.high), abs=0.01)
    shuffled = np.random.default_rng(0).permutation(600)
    again = paired_difference(*(scores[:, shuffled] for scores in repeated), groups=groups[shuffled])
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


def test_groups_of_unequal_size_keep_the_mean_over_rows() -> None:
    before = np.ones((1, 400), bool)
    after = np.arange(400)[None] >= 100
    groups = np.concatenate([np.arange(100) // 4, 25 + np.arange(300) // 2])
    found = paired_difference(before, after, groups=groups)
    assert found.difference == -0.25
    assert found.low < -0.25 < found.high
    # 25 of 175 source images hold all the losses: far less sure than 400 rows
    assert found.high - found.low > 1.5 * (lambda one: one.high - one.low)(paired_difference(before, after))


cases = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 150), st.sampled_from([0.0, 0.01, 0.1, 0.5])
)


@settings(deadline=None, max_examples=60)
@given(cases)
def test_what_holds_for_any_data(case: tuple[int, int, int, float]) -> None:
    before, after = flipped(*case)
    found = paired_difference(before, after, num_resamples=300)
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert found.low < found.high
    assert 0 <= found.p_value <= 1
    back = paired_difference(after, before, num_resamples=300)
    assert back.difference == pytest.approx(-found.difference, abs=1e-12)
    assert back.p_value == pytest.approx(found.p_value)
    assert (back.num_lost, back.num_gained) == (found.num_gained, found.num_lost)
    assert (back.low, back.high) == pytest.approx(
        (-found.high, -found.low),
        abs=1e-6 if found.interval_method == "score" else 0.3 * (found.high - found.low),
    )
    order = np.random.default_rng(0).permutation(before.shape[1])
    moved = paired_difference(before[:, order], after[:, order], num_resamples=300)
    assert (moved.low, moved.high, moved.p_value) == pytest.approx(
        (found.low, found.high, found.p_value), abs=1e-9
    )
    same = paired_difference(before, before, num_resamples=300)
    assert (same.difference, same.p_value, same.flip_rate) == (0, 1, 0)


def test_equal_input_and_seed_equal_result() -> None:
    arrays = flipped(3, 3, 500, 0.2)
    assert paired_difference(*arrays) == paired_difference(*arrays)
    assert paired_difference(*arrays).low != paired_difference(*arrays, seed=1).low
    wide, narrow = paired_difference(*arrays, confidence=0.99), paired_difference(*arrays, confidence=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_fifty_thousand_images_take_no_time() -> None:
    arrays = flipped(3, 3, 50_000, 0.05)
    paired_difference(*flipped(0, 3, 100, 0.5))  # scipy's and statsmodels' imports
    started = time.process_time()
    assert paired_difference(*arrays).num_images == 50_000
    assert time.process_time() - started < 0.5


def test_the_resamples_of_distinct_and_of_equal_rows_are_alike() -> None:
    generator = np.random.default_rng(0)
    for values in (generator.normal(size=(400, 2)), np.round(generator.normal(size=(400, 2)))):
        means = resampled_means(values, 4000, np.random.default_rng(1))
        assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.005)
        assert np.cov(means.T) == pytest.approx(np.cov(values.T, bias=True) / 400, rel=0.1, abs=3e-4)


def test_detectable_is_found_in_four_samples_of_five() -> None:
    found = paired_difference(*flipped(1, 1, 600, 0.1))
    share_lost = (0.1 + found.detectable) / 2
    generator = np.random.default_rng(2)
    draws = generator.multinomial(600, [share_lost, 0.1 - share_lost, 0.9], size=300)
    p_values = [paired_difference(*outcomes(n, lost, gained, 0)).p_value for lost, gained, n in draws]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.8, abs=0.08)


def test_what_cannot_be_compared_is_refused() -> None:
    one = np.ones((1, 5), bool)
    for before, after in (
        (one, one[:, :4]),
        (one[:, :0], one[:, :0]),
        (one * math.nan, one),
        (one[None], one[None]),
    ):
        with pytest.raises(ValueError, match=r"paired|no scores|finite"):
            paired_difference(before, after)
    with pytest.raises(ValueError, match="groups"):
        paired_difference(one, one, groups=[1, 2])
    for wrong in ({"confidence": 95}, {"num_resamples": 5}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            paired_difference(one, one, **wrong)
    single: PairedDifference = paired_difference([True], [False])
    assert (single.low, single.p_value) == (-1, 1)
    assert math.isnan(single.standard_error)
