"""Two conditions compared image by image: difference, interval, test, and what the sample could have seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.crossed import CrossedMean, FloatArray, crossed_mean, resampled_means
from limla.statistics.intervals import Interval
from limla.statistics.score_interval import paired_score_interval

FEWEST_DISCORDANT = 30
"""Below so many discordant source images the interval is a score interval: a bootstrap of few events is too narrow."""
FEWEST_FOR_CHI_SQUARE = 25
"""Below so many discordant pairs McNemar's test is the exact binomial one."""
POWER, ALPHA = 0.8, 0.05


@dataclass(frozen=True)
class PairedDifference:
    """What changed from `before` to `after` on the same images.

    Attributes:
        difference: mean score after − before; in [-1, 1] for correct/wrong scores.
        low, high: its confidence interval, at level `confidence`.
        interval_method: "bootstrap" or "score".
        p_value: of the null hypothesis that `test` names.
        test: "McNemar exact", "McNemar chi-square", "sign flips", "t" or "crossed t".
        num_lost, num_gained: pairs whose score fell, rose; summed over the seeds.
        flip_rate: (num_lost + num_gained) / all pairs, in [0, 1].
        num_images: rows per seed; num_sources: different source images among them; num_seeds: training seeds.
        standard_error: of the difference, and its degrees of freedom.
        seed_variance: the part of standard_error² that more images would not shrink; 0 for one seed.
        detectable: the smallest difference that this sample would find with 80% power at the 5% level.
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
    num_images: int
    num_sources: int
    num_seeds: int
    standard_error: float
    degrees_of_freedom: float
    seed_variance: float
    detectable: float


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
    change = new - old
    num_seeds, num_images = change.shape
    sums, sizes = _by_source(change, groups)
    is_binary = all(bool(((scores == 0) | (scores == 1)).all()) for scores in (old, new))
    # linearised ratio: each source image's residual around the overall mean, in units of one image
    mean = float(change.mean())
    values = mean + (sums - mean * sizes) * (len(sizes) / num_images)
    found = crossed_mean(values)
    num_lost, num_gained = int((change < 0).sum()), int((change > 0).sum())
    is_sparse = is_binary and int((sums != 0).any(axis=0).sum()) < FEWEST_DISCORDANT
    if is_sparse:
        low, high = _sparse_interval(change, found, len(sizes), confidence)
    else:
        low, high = _bootstrap_interval(values, found, confidence, num_resamples, np.random.default_rng(seed))
    p_value, test = _test(num_lost, num_gained, sums, num_images, found, is_binary)
    return PairedDifference(
        difference=mean,
        low=min(low, mean),
        high=max(high, mean),
        confidence=confidence,
        interval_method="score" if is_sparse else "bootstrap",
        p_value=p_value,
        test=test,
        num_lost=num_lost,
        num_gained=num_gained,
        flip_rate=(num_lost + num_gained) / change.size,
        num_images=num_images,
        num_sources=len(sizes),
        num_seeds=num_seeds,
        standard_error=found.standard_error,
        degrees_of_freedom=found.degrees_of_freedom,
        seed_variance=found.seed_variance,
        detectable=_detectable(found, len(sizes), is_binary),
    )


def prediction_flip_rate(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """The share of predictions that changed, right or wrong; NaN where there are none. Any equal shapes."""
    old, new = np.asarray(before), np.asarray(after)
    if old.shape != new.shape:
        raise ValueError(f"predictions of shapes {old.shape} and {new.shape} cannot be paired")
    return float((old != new).mean()) if old.size else math.nan


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


def _by_source(change: FloatArray, groups: npt.ArrayLike | None) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """The (S, G) sums over each source image's columns, and the (G,) number of its columns."""
    num_images = change.shape[1]
    if groups is None:
        return change, np.ones(num_images, np.int64)
    ids = np.asarray(groups)
    if ids.shape != (num_images,):
        raise ValueError(
            f"groups of shape {ids.shape} for {num_images} images: give one source image per column"
        )
    _, index, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=len(sizes)) for row in change])
    return sums.astype(np.float64), sizes.astype(np.int64)


def _sparse_interval(change: FloatArray, found: CrossedMean, num_sources: int, confidence: float) -> Interval:
    """Tango's interval on the source images: the seeds' counts are averaged, as if they shared all their flips."""
    from scipy.stats import norm

    scale = num_sources / change.size
    return paired_score_interval(
        float((change > 0).sum()) * scale,
        float((change < 0).sum()) * scale,
        num_sources,
        critical=float(norm.ppf((1 + confidence) / 2)),
    )


def _bootstrap_interval(
    values: FloatArray,
    found: CrossedMean,
    confidence: float,
    num_resamples: int,
    generator: np.random.Generator,
) -> Interval:
    """Percentiles of means of resampled images, plus the seeds' part, stretched by Student's t for few seeds."""
    from scipy.stats import norm, t

    if not math.isfinite(found.standard_error):
        return Interval(math.nan, math.nan)
    deviations = resampled_means(values.mean(axis=0), num_resamples, generator) - found.mean
    if found.seed_variance > 0:
        deviations += generator.normal(0.0, math.sqrt(found.seed_variance), num_resamples)
    tail = (1 + confidence) / 2
    stretch = float(t.ppf(tail, found.degrees_of_freedom)) / float(norm.ppf(tail))
    low, high = found.mean + stretch * np.quantile(deviations, [1 - tail, tail])
    return Interval(float(low), float(high))


def _test(
    num_lost: int,
    num_gained: int,
    sums: FloatArray,
    num_images: int,
    found: CrossedMean,
    is_binary: bool,
) -> tuple[float, str]:
    """The p-value and the name of the test."""
    from scipy.stats import t
    from statsmodels.stats.contingency_tables import mcnemar

    if len(sums) == 1 and is_binary and sums.shape[1] == num_images:
        is_exact = num_lost + num_gained < FEWEST_FOR_CHI_SQUARE
        result: Any = mcnemar([[0, num_lost], [num_gained, 0]], exact=is_exact, correction=True)
        return float(result.pvalue), "McNemar exact" if is_exact else "McNemar chi-square"
    name = "t" if len(sums) == 1 else "crossed t"
    if found.mean == 0:
        return 1.0, name
    if not found.standard_error > 0:
        return (math.nan if math.isnan(found.standard_error) else 0.0), name
    return float(2 * t.sf(abs(found.mean) / found.standard_error, found.degrees_of_freedom)), name


def _detectable(found: CrossedMean, num_sources: int, is_binary: bool) -> float:
    """The difference whose test has 80% power, with the variance seen here.

    Correct/wrong scores that change by d on average vary by at least d − d²; where fewer pairs differ than that, this
    least variance is taken, so a sample without any flip does not promise to find anything.
    """
    from statsmodels.stats.power import TTestPower

    if not found.degrees_of_freedom > 0:
        return math.nan
    nobs = found.degrees_of_freedom + 1
    effect = TTestPower().solve_power(nobs=nobs, alpha=ALPHA, power=POWER, alternative="two-sided")
    factor = np.asarray(effect).item() * math.sqrt(nobs)
    least = factor**2 / (num_sources + factor**2) if is_binary else 0.0
    return max(factor * found.standard_error, least)
