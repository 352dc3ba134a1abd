"""Two conditions compared image by image: difference, interval, test, and what the sample could have seen."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.crossed import CrossedMean, FloatArray, crossed_mean, resampled_means, source_sums
from limla.statistics.intervals import Interval
from limla.statistics.score_interval import paired_score_interval

FEWEST_EVENTS = 30
"""With fewer source images that changed (or, where most did, that did not) the interval is a score interval: a
bootstrap of few events is too narrow, and of none it has no width."""
FEWEST_FOR_CHI_SQUARE = 25
"""Below so many discordant pairs McNemar's test is the exact binomial one."""
POWER, ALPHA = 0.8, 0.05
_FEW_SEEDS, _FEW_DEGREES = 3, 10


@dataclass(frozen=True)
class PairedDifference:
    """What changed from `before` to `after` on the same images.

    Attributes:
        difference: mean score after − before; in [-1, 1] for correct/wrong scores.
        low, high: its confidence interval, at level `confidence`; in [-1, 1] for correct/wrong scores. It is about
            other images (and trainings), so the accuracy of `before` on these is no bound of it.
        interval_method: "bootstrap", or "score" where fewer than 30 source images changed.
        p_value: of the null hypothesis that `test` names.
        test: what was tested. One seed, one row per source image: "McNemar exact" below 25 discordant pairs, else
            "McNemar chi-square" (with continuity correction): these models, other images. Several rows per source
            image: "sign flips" of whole source images below 30 that changed, else "t" over them. Several seeds:
            "crossed t": the mean change over other images and other trainings is 0; below 30 source images that
            changed, "sign flips and crossed t", the larger p-value of both.
        num_lost, num_gained: pairs whose score fell, or rose; summed over the seeds.
        flip_rate: (num_lost + num_gained) / all pairs, in [0, 1]: of correct/wrong scores those right on one side only.
            That of predictions is `limla.metrics.flip_rate`.
        is_binary: whether all scores are 0 or 1.
        num_images: rows per seed; num_sources: different source images among them; num_seeds: training seeds.
        standard_error: of the difference; degrees_of_freedom: those that it counts with.
        seed_variance: the part of standard_error² that more images would not shrink; 0 for one seed.
        detectable: the smallest difference that such a sample would find with 80% power at the 5% level; NaN where it
            would find none of any size: of correct/wrong scores none is larger than the share that was right, or wrong.
    """

    difference: float
    low: float
    high: float
    confidence: float
    interval_method: str
    p_value: float
    test: str
    num_lost: int
    num_gained: int
    flip_rate: float
    is_binary: bool
    num_images: int
    num_sources: int
    num_seeds: int
    standard_error: float
    degrees_of_freedom: float
    seed_variance: float
    detectable: float

    @property
    def is_short_of_seeds(self) -> bool:
        """Whether 2 or 3 seeds that differ decide how wide the interval is: Student's t with under 10 degrees."""
        return (
            1 < self.num_seeds <= _FEW_SEEDS
            and self.seed_variance > 0
            and self.degrees_of_freedom < _FEW_DEGREES
        )


def paired_difference(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
) -> PairedDifference:
    """Compare two conditions on the same images: (S, N) scores, S training seeds × N images, or (N,) for one seed.

    Args:
        before, after: bool (correct or not; 0 and 1 likewise) or float scores; column n is the same image in both, and
            row s the same seed.
        confidence: of the two-sided interval, in (0, 1).
        num_resamples: of the bootstrap.
        seed: of the bootstrap; equal input and seed, equal result.
        groups: (N,) the source image of each column, where several come from one; they are drawn together.

    Raises:
        ValueError: shapes differ, nothing to compare, or a score is not finite.
        SettingsError: confidence outside (0, 1), or too few resamples.
    """
    old, new = _scores(before, after)
    if not 0 < confidence < 1:
        raise SettingsError(f"confidence {confidence} must lie between 0 and 1, for example 0.95")
    if num_resamples < 100:
        raise SettingsError(f"num_resamples {num_resamples} is too few for an interval: give at least 100")
    is_binary = all(bool(((scores == 0) | (scores == 1)).all()) for scores in (old, new))
    changes = _Changes.of(new - old, groups, is_binary)
    found = crossed_mean(changes.values)
    if changes.is_sparse:
        low, high = _sparse_interval(changes, found, confidence)
    else:
        low, high = _bootstrap_interval(changes, found, confidence, num_resamples, np.random.default_rng(seed))
    p_value, test = _test(changes, found)
    return PairedDifference(
        difference=found.mean,
        low=low,
        high=high,
        confidence=confidence,
        interval_method="score" if changes.is_sparse else "bootstrap",
        p_value=p_value,
        test=test,
        num_lost=changes.num_lost,
        num_gained=changes.num_gained,
        flip_rate=(changes.num_lost + changes.num_gained) / old.size,
        is_binary=is_binary,
        num_images=old.shape[1],
        num_sources=changes.num_sources,
        num_seeds=len(old),
        standard_error=found.standard_error,
        degrees_of_freedom=found.degrees_of_freedom,
        seed_variance=found.seed_variance,
        detectable=_detectable(changes, found, max(old.mean(), 1 - old.mean()) if is_binary else math.inf),
    )


def _scores(before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    old, new = (np.atleast_2d(np.asarray(scores, np.float64)) for scores in (before, after))
    if old.shape != new.shape or old.ndim != 2:
        raise ValueError(
            f"scores of shapes {np.shape(before)} and {np.shape(after)} cannot be paired: both (S, N)"
        )
    if old.size == 0:
        raise ValueError("no scores to compare")
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise ValueError("scores must be finite: leave out images without a score, in both conditions")
    return old, new


class _Changes:
    """The changes of score, row by row and source image by source image."""

    def __init__(
        self, sums: FloatArray, sizes: npt.NDArray[np.int64], num_lost: int, num_gained: int, is_binary: bool
    ):
        self.sums, self.sizes = sums, sizes  # (S, G): over each source image's rows; (G,): their numbers
        self.num_rows = int(sizes.sum()) * len(sums)
        self.num_sources = len(sizes)
        self.num_lost, self.num_gained, self.is_binary = num_lost, num_gained, is_binary
        mean = float(sums.sum()) / self.num_rows
        # linearised ratio: each source image's residual around the overall mean, in units of one image
        self.values = mean + (sums - mean * sizes) * (self.num_sources / float(sizes.sum()))

    @classmethod
    def of(cls, change: FloatArray, groups: npt.ArrayLike | None, is_binary: bool) -> _Changes:
        counts = int((change < 0).sum()), int((change > 0).sum())
        if groups is None:
            return cls(change, np.ones(change.shape[1], np.int64), *counts, is_binary)
        sums, sizes = source_sums(change, groups)
        return cls(sums, sizes, *counts, is_binary)

    @property
    def by_source(self) -> FloatArray:
        """(G,) lost (below 0) or gained rows of each source image, over all seeds."""
        return self.sums.sum(axis=0)

    @property
    def num_events(self) -> int:
        """Source images that did not do what most did: most stay as they were, or are all lost, or all gained."""
        patterns = (0, -self.sizes, self.sizes)
        return self.num_sources - max(int((self.sums == pattern).all(axis=0).sum()) for pattern in patterns)

    @property
    def is_sparse(self) -> bool:
        """Too few events for a bootstrap."""
        return self.is_binary and self.num_events < FEWEST_EVENTS

    @property
    def is_plain(self) -> bool:
        """One row per source image: the pairs are independent."""
        return self.num_rows == self.num_sources


def _sparse_interval(changes: _Changes, found: CrossedMean, confidence: float) -> Interval:
    """Tango's interval with effective counts; where seeds differ, as far as Student's interval reaches too.

    Rows of one source image share their luck: n rows are worth n / deff independent pairs (Kish, Survey Sampling, 1965;
    with score intervals: Korn & Graubard, Survey Methodology 24, 1998). deff is estimated from the rows, yet from few
    events badly, so it is drawn towards the greatest it can be, the rows per source image, which it is without events.
    """
    from scipy.stats import norm

    deff = 1.0
    if not changes.is_plain:
        most = changes.num_rows / changes.num_sources
        pooled = (changes.num_lost + changes.num_gained) / changes.num_rows - found.mean**2
        seen = max(1.0, found.image_variance * changes.num_rows / pooled) if pooled > 0 else most
        doubt = 1 / (1 + (changes.num_events / 2) ** 2)
        deff = doubt * most + (1 - doubt) * seen
    score = paired_score_interval(
        changes.num_gained / deff,
        changes.num_lost / deff,
        changes.num_rows / deff,
        critical=float(norm.ppf((1 + confidence) / 2)),
    )
    if not found.seed_variance > 0:
        return score
    half = found.critical(confidence) * found.standard_error
    return Interval(max(-1.0, min(score.low, found.mean - half)), min(1.0, max(score.high, found.mean + half)))


def _bootstrap_interval(
    changes: _Changes,
    found: CrossedMean,
    confidence: float,
    num_resamples: int,
    generator: np.random.Generator,
) -> Interval:
    """Percentiles of the means of resampled source images, the seeds' part added, stretched by Student's t.

    Few seeds cannot be resampled: three have ten different resamples, and percentiles of these are far too narrow. So
    the seeds' level of the bootstrap is parametric, a normal deviation with their variance component.
    """
    from scipy.stats import norm

    if not math.isfinite(found.standard_error):
        return Interval(math.nan, math.nan)
    deviations = resampled_means(changes.values.mean(axis=0), num_resamples, generator) - found.mean
    if found.seed_variance > 0:
        deviations += generator.normal(0.0, math.sqrt(found.seed_variance), num_resamples)
    tail = (1 - confidence) / 2
    stretch = found.critical(confidence) / float(norm.ppf(1 - tail))
    low, high = found.mean + stretch * np.quantile(deviations, [tail, 1 - tail])
    if changes.is_binary:
        low, high = max(-1.0, low), min(1.0, high)
    return Interval(min(float(low), found.mean), max(float(high), found.mean))


def _test(changes: _Changes, found: CrossedMean) -> tuple[float, str]:
    """The p-value and the test's name; `PairedDifference` says what each tests."""
    from statsmodels.stats.contingency_tables import mcnemar

    if changes.is_plain and changes.is_binary:
        is_exact = changes.num_lost + changes.num_gained < FEWEST_FOR_CHI_SQUARE
        table = [[0, changes.num_lost], [changes.num_gained, 0]]
        result: Any = mcnemar(table, exact=is_exact, correction=True)
        return float(result.pvalue), "McNemar exact" if is_exact else "McNemar chi-square"
    by_seed = "crossed t" if len(changes.sums) > 1 else "t"
    if not changes.is_sparse:
        return _t_test(found), by_seed
    flips = sign_flip_p_value(changes.by_source)
    if len(changes.sums) == 1:
        return flips, "sign flips"
    # an image that flips under all seeds is one event; seeds that differ are worth less than their images
    return max(flips, _t_test(found)), "sign flips and crossed t"


def _t_test(found: CrossedMean) -> float:
    from scipy.stats import t

    if found.mean == 0:
        return 1.0
    if not found.standard_error > 0:
        return math.nan if math.isnan(found.standard_error) else 0.0
    return float(2 * t.sf(abs(found.mean) / found.standard_error, found.degrees_of_freedom))


def sign_flip_p_value(sums: FloatArray) -> float:
    """Exact two-sided p-value of Σ sums when each sum is as likely to have the other sign; (G,) whole numbers.

    Without an effect "before" and "after" of a source image could be swapped, with all its rows. For sums of ±1 it is
    McNemar's exact test; larger ones make it its version for clusters.
    """
    from scipy.stats import binom

    weights, counts = np.unique(np.abs(sums[sums != 0]).astype(np.int64), return_counts=True)
    chances = np.ones(1)  # of Σ of the parts with a positive sign
    for weight, count in zip(weights, counts, strict=True):
        steps = np.zeros(weight * count + 1)
        steps[::weight] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
    total = len(chances) - 1
    distance = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[distance >= abs(round(float(sums.sum())))].sum()))


def noncentrality(degrees_of_freedom: float, alpha: float, alternative: str) -> float:
    """So many standard errors must an effect measure for a t test to find it with 80% power (statsmodels)."""
    # solving takes longer than all the rest of a comparison, and a tenth of a degree of freedom changes nothing
    return _noncentrality(round(degrees_of_freedom, 1), alpha, alternative)


@functools.lru_cache(maxsize=1024)
def _noncentrality(degrees_of_freedom: float, alpha: float, alternative: str) -> float:
    from statsmodels.stats.power import TTestPower

    nobs = degrees_of_freedom + 1
    effect = TTestPower().solve_power(nobs=nobs, alpha=alpha, power=POWER, alternative=alternative)
    return float(np.asarray(effect).item()) * math.sqrt(nobs)


def _detectable(changes: _Changes, found: CrossedMean, largest: float) -> float:
    """The difference whose test has 80% power, with the variance seen here; NaN where it is above the `largest` one.

    Correct/wrong scores that change by d on average vary by at least d − d²; where less was seen, that is taken: a
    sample without any flip does not promise to find anything.
    """
    if not found.degrees_of_freedom > 0:
        return math.nan
    distance = noncentrality(found.degrees_of_freedom, ALPHA, "two-sided")
    least = distance**2 / (changes.num_sources + distance**2) if changes.is_binary else 0.0
    # McNemar's tests take one pair off the difference
    correction = 1 / changes.num_rows if changes.is_plain and changes.is_binary else 0.0
    size = max(distance * found.standard_error + correction, least)
    return size if size <= largest else math.nan
