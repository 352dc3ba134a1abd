"""How sure are the deltas between two rate curves? Images resampled for both curves together, seeds added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.statistics.crossed import CrossedMean, FloatArray, crossed_mean, resampled_means, source_sums
from limla.statistics.intervals import Interval
from limla.statistics.rate_curves import LEAST_OVERLAP, BdResult, Method, bd_metrics

MOST_REFUSED = 0.05
"""With more resamples refused than this there is no interval: the rest is a choice, not a sample."""


@dataclass(frozen=True)
class BdInterval:
    """Bjøntegaard's deltas of measured curves, with intervals.

    Attributes:
        result: of the scores as measured (means over seeds and images).
        bd_rate_percent, bd_score: intervals; NaN ends where the value is refused, or was in over 5% of the resamples.
        refused_rate, refused_score: shares of the resamples in which the value was refused, in [0, 1].
    """

    result: BdResult
    bd_rate_percent: Interval
    bd_score: Interval
    refused_rate: float
    refused_score: float


def bd_interval(
    rates_a: npt.ArrayLike,
    correct_a: npt.ArrayLike,
    rates_b: npt.ArrayLike,
    correct_b: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    method: Method = "pchip",
    min_overlap: float = LEAST_OVERLAP,
) -> BdInterval:
    """`bd_metrics` with percentile bootstrap intervals over source images, which both curves share.

    Args:
        rates_a, rates_b: (Q,) mean rates, or (Q, N) per image, which are then resampled with the images.
        correct_a, correct_b: (Q, S, N) scores, Q qualities × S seeds × N images; Q and S may differ between the curves
            (then their seeds count as different trainings), image n is the same everywhere.
        groups: (N,) the source image of each column, where several come from one.
        confidence, num_resamples, seed: of the bootstrap.
        method, min_overlap: as in `bd_metrics`.

    With several seeds their part of the variance is added as in `paired_difference`. The deltas are no means, so they
    are replaced there by the linear function of the scores that fits the resamples best.

    Raises:
        ValueError: shapes that do not fit.
    """
    curves = [_Curve.of(rates, correct) for rates, correct in ((rates_a, correct_a), (rates_b, correct_b))]
    num_images = curves[0].scores.shape[-1]
    if curves[1].scores.shape[-1] != num_images:
        raise ValueError(f"curves over {num_images} and {curves[1].scores.shape[-1]} images cannot be paired")
    rows = np.concatenate([curve.rows() for curve in curves])
    sums, sizes = (rows, np.ones(num_images)) if groups is None else source_sums(rows, groups)

    def deltas(means: FloatArray) -> BdResult:
        first, second = np.split(means, [curves[0].num_rows])
        return bd_metrics(
            *curves[0].points(first), *curves[1].points(second), method=method, min_overlap=min_overlap
        )

    result = deltas(rows.mean(axis=1))
    drawn = resampled_means(
        np.vstack([sums, sizes]).T.astype(np.float64), num_resamples, np.random.default_rng(seed)
    )
    means = drawn[:, :-1] / drawn[:, -1:]
    draws = [deltas(row) for row in means]
    found = {}
    for name in ("bd_rate_percent", "bd_score"):
        value, values = getattr(result, name), [getattr(draw, name) for draw in draws]
        is_known = np.array([each is not None for each in values])
        refused = 1 - float(is_known.mean())
        interval = Interval(math.nan, math.nan)
        if value is not None and refused <= MOST_REFUSED:
            known = np.array([each for each in values if each is not None], np.float64)
            is_rate = name == "bd_rate_percent"
            if is_rate:  # as a logarithm, in which it is a mean difference: no end can fall below -100%
                value, known = math.log1p(value / 100), np.log1p(known / 100)
            parts = _seed_parts(curves, means[is_known], known, groups)
            interval = _interval(value, known, parts, confidence, np.random.default_rng(seed))
            if is_rate:
                interval = Interval(*(100 * math.expm1(end) for end in (interval.low, interval.high)))
        found[name] = interval, refused
    (rate, refused_rate), (score, refused_score) = found.values()
    return BdInterval(result, rate, score, refused_rate, refused_score)


@dataclass(frozen=True)
class _Curve:
    """One measured curve."""

    rates: FloatArray  # (Q,) or (Q, N)
    scores: FloatArray  # (Q, S, N)

    @classmethod
    def of(cls, rates: npt.ArrayLike, correct: npt.ArrayLike) -> _Curve:
        curve = cls(np.asarray(rates, np.float64), np.asarray(correct, np.float64))
        shape = curve.scores.shape
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"scores of shape {shape}: (Q, S, N) expected")
        if curve.rates.shape not in ((shape[0],), (shape[0], shape[2])):
            raise ValueError(
                f"rates of shape {curve.rates.shape} for scores of shape {shape}: (Q,) or (Q, N) expected"
            )
        return curve

    @property
    def num_rows(self) -> int:
        return len(self.scores) * self.rates.ndim

    def rows(self) -> FloatArray:
        """(Q, N) scores, means over the seeds, and the rates below them where they differ by image."""
        scores = self.scores.mean(axis=1)
        return scores if self.rates.ndim == 1 else np.concatenate([scores, self.rates])

    def points(self, means: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rates and scores of the curve with such means of its rows."""
        scores = means[: len(self.scores)]
        return (self.rates if self.rates.ndim == 1 else means[len(self.scores) :]), scores


def _seed_parts(
    curves: list[_Curve], means: FloatArray, values: FloatArray, groups: npt.ArrayLike | None
) -> list[CrossedMean]:
    """The variance parts of a delta: one entry for seeds that both curves share, else one per curve."""
    slopes, *_ = np.linalg.lstsq(means - means.mean(axis=0), values - values.mean(), rcond=None)
    by_curve = np.split(slopes, [curves[0].num_rows])
    linear = [  # (S, N) each
        np.einsum("q,qsn->sn", slope[: len(curve.scores)], curve.scores)
        for slope, curve in zip(by_curve, curves, strict=True)
    ]
    if len(linear[0]) == len(linear[1]):
        linear = [linear[0] + linear[1]]
    if groups is not None:
        sums = [source_sums(table, groups) for table in linear]
        linear = [total * (total.shape[1] / sizes.sum()) for total, sizes in sums]
    return [crossed_mean(table) for table in linear]


def _interval(
    value: float,
    draws: FloatArray,
    parts: list[CrossedMean],
    confidence: float,
    generator: np.random.Generator,
) -> Interval:
    """Percentiles of the draws with the seeds' part added, stretched about the value by Student's t for few seeds."""
    from scipy.stats import norm

    tail = (1 - confidence) / 2
    seed_variance = sum(part.seed_variance for part in parts)
    if seed_variance > 0:
        draws = draws + generator.normal(0.0, math.sqrt(seed_variance), len(draws))
    stretch = max(part.critical(confidence) for part in parts) / float(norm.ppf(1 - tail))
    low, high = value + stretch * (np.quantile(draws, [tail, 1 - tail]) - value)
    return Interval(float(low), float(high))
