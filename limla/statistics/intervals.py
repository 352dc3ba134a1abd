"""Intervals around measured rates and scores (numpy, scipy)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.metrics import marginal_scores


class Interval(NamedTuple):
    """A two-sided confidence interval; both ends NaN when there is nothing to estimate from."""

    low: float
    high: float


def proportion_interval(num_successes: int, num_samples: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson, JASA 22, 1927), through scipy.

    It stays inside [0, 1] and keeps its coverage near 0 and 1, where accuracies live and the normal
    approximation does not.
    """
    if not 0 <= num_successes <= num_samples:
        raise ValueError(f"{num_successes} successes of {num_samples} samples is impossible")
    if num_samples == 0:
        return Interval(math.nan, math.nan)
    from scipy.stats import binomtest

    found = binomtest(num_successes, num_samples).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean of independent values; NaN ends for fewer than two values."""
    from scipy.stats import sem, t

    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Interval(math.nan, math.nan)
    half = float(np.asarray(sem(array))) * float(t.ppf((1 + confidence) / 2, len(array) - 1))
    mean = float(array.mean())
    return Interval(mean - half, mean + half)


FEWEST_OF_EACH = 3
"""So many images must be right, and so many wrong, for a bootstrap of macro scores to say anything: its resamples vary
only in what occurred. `benchmarks/intervals.py` simulates how often the intervals that remain hold the truth."""


class ScoreIntervals(NamedTuple):
    """Intervals of the macro scores of one confusion matrix."""

    precision_macro: Interval
    recall_macro: Interval
    f1_macro: Interval


def macro_score_intervals(
    confusion: npt.NDArray[np.int64], confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> ScoreIntervals:
    """Percentile bootstrap intervals of macro precision, recall and F1 (Efron & Tibshirani, 1993, ch. 13).

    Resampling the images of a confusion matrix with replacement is drawing a new matrix from the multinomial
    of its cells, so the matrix is all that is needed: no loop over images. With fewer than `FEWEST_OF_EACH` images
    right, or wrong, all ends are NaN.
    """
    total = int(confusion.sum())
    num_right = int(np.trace(confusion))
    if min(num_right, total - num_right) < FEWEST_OF_EACH:
        nothing = Interval(math.nan, math.nan)
        return ScoreIntervals(nothing, nothing, nothing)
    # only cells that occurred can be drawn; with a thousand classes that is the difference between MB and GB
    actual, predicted = np.nonzero(confusion)
    counts = confusion[actual, predicted]
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(total, counts / total, size=num_resamples)
    num_classes = len(confusion)
    diagonal = actual == predicted
    _, *scores = marginal_scores(
        _sum_by(actual[diagonal], draws[:, diagonal], num_classes),
        _sum_by(actual, draws, num_classes),
        _sum_by(predicted, draws, num_classes),
    )
    tail = (1 - confidence) / 2
    return ScoreIntervals(*(Interval(*map(float, np.quantile(score, [tail, 1 - tail]))) for score in scores))


def _sum_by(
    group: npt.NDArray[np.intp], draws: npt.NDArray[np.int64], num_groups: int
) -> npt.NDArray[np.int64]:
    """Sum the columns of (B, K) draws by the group of each column: (B, num_groups)."""
    from scipy.sparse import csr_array

    columns = np.arange(len(group))
    membership = csr_array((np.ones(len(group), np.int64), (group, columns)), shape=(num_groups, len(group)))
    return np.asarray(membership @ draws.T).T


def cramers_v(table: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Bias-corrected association of two categorical variables, in [0, 1], and its chi-square p-value.

    `table` is the (R, K) contingency table of counts. Bergsma, J. Korean Statistical Society 42, 2013;
    0 and p = 1 when a variable takes a single value.
    """
    from scipy.stats import chi2_contingency

    kept = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    rows, columns = kept.shape
    total = int(kept.sum())
    if min(rows, columns) < 2 or total < 2:
        return 0.0, 1.0
    found: Any = chi2_contingency(kept, correction=False)
    phi2 = max(0.0, float(found.statistic) / total - (rows - 1) * (columns - 1) / (total - 1))
    corrected = min(rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1)) - 1
    return (math.sqrt(phi2 / corrected) if corrected > 0 else 0.0), float(found.pvalue)
