"""Curves of a score against bits per pixel: how many bits, or how much score, lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.crossed import FloatArray

Method = Literal["pchip", "akima"]
FEWEST_POINTS = 4
"""Bjøntegaard's method is defined on four points per curve (VCEG-M33, 2001); fewer leave the integral to the ends."""
LEAST_OVERLAP = 0.5


@dataclass(frozen=True)
class BdResult:
    """Curve b against curve a.

    Attributes:
        bd_rate_percent: mean difference of rate at equal score, in %; below 0: b needs fewer bits. None: refused.
        bd_score: mean difference of score at equal rate (log scale), in the score's unit. None: refused.
        overlap: share of all scores of the two curves that both reach, in [0, 1]: where bd_rate_percent looks.
        rate_overlap: the same of the log rates: where bd_score looks.
        num_pooled_a, num_pooled_b: points that were averaged with neighbours because the score fell with rising rate.
        reason: why a value is None; empty where both are known.
    """

    bd_rate_percent: float | None
    bd_score: float | None
    overlap: float
    rate_overlap: float
    num_pooled_a: int
    num_pooled_b: int
    reason: str


def bd_metrics(
    rates_a: npt.ArrayLike,
    scores_a: npt.ArrayLike,
    rates_b: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    *,
    method: Method = "pchip",
    min_overlap: float = LEAST_OVERLAP,
) -> BdResult:
    """Bjøntegaard's deltas of curve b against curve a (VCEG-M33, 2001), through the `bjontegaard` package.

    Args:
        rates_a, scores_a, rates_b, scores_b: (Q,) one point per quality, in any order; rates above 0, say in bits per
            pixel; the two curves may have different numbers of points.
        method: of interpolation between points.
        min_overlap: refuse below so large a shared part.

    A measured score may fall a little where the rate rises. Then rate is no function of score, and its integral is not
    defined: the curve is replaced by its isotonic regression (scipy), plateaus are joined to one point, and the result
    says how many points that took. Nothing is raised for curves that cannot be compared: the reason is in the result.

    Raises:
        ValueError: rates and scores of different shapes.
        SettingsError: an unknown method, or min_overlap outside (0, 1].
    """
    if method not in ("pchip", "akima"):
        raise SettingsError(f"method {method!r} is unknown: choose pchip or akima")
    if not 0 < min_overlap <= 1:
        raise SettingsError(f"min_overlap {min_overlap} must lie in (0, 1]")
    curve_a, curve_b = _curve(rates_a, scores_a), _curve(rates_b, scores_b)
    overlap, rate_overlap = _overlap(curve_a[1], curve_b[1]), _overlap(curve_a[0], curve_b[0])
    for name, (logs, scores) in (("first", curve_a), ("second", curve_b)):
        reason = _unusable(logs, scores, name)
        if reason:
            return BdResult(None, None, overlap, rate_overlap, 0, 0, reason)
    smooth_a, smooth_b = _monotone(*curve_a), _monotone(*curve_b)
    pooled = len(curve_a[0]) - len(smooth_a[0]), len(curve_b[0]) - len(smooth_b[0])
    overlap = _overlap(smooth_a[1], smooth_b[1])
    bd_rate, rate_reason = _bd_rate(smooth_a, smooth_b, method, overlap, min_overlap)
    bd_score, score_reason = _bd_score(curve_a, curve_b, method, rate_overlap, min_overlap)
    reason = "; ".join(text for text in (rate_reason, score_reason) if text)
    return BdResult(bd_rate, bd_score, overlap, rate_overlap, *pooled, reason)


def _curve(rates: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """log10 rates, rising, and their scores; NaN where a rate is not above 0."""
    x, y = np.asarray(rates, np.float64), np.asarray(scores, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"rates of shape {x.shape} and scores of shape {y.shape} are no curve: both (Q,)")
    order = np.argsort(x, kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(x[order]), y[order]


def _unusable(logs: FloatArray, scores: FloatArray, name: str) -> str:
    if len(logs) < FEWEST_POINTS:
        return f"the {name} curve has {len(logs)} points, {FEWEST_POINTS} are needed"
    if not (np.isfinite(logs).all() and np.isfinite(scores).all()):
        return f"the {name} curve has a rate that is not above 0, or a score that is not finite"
    if (np.diff(logs) <= 0).any():
        return f"the {name} curve has two points of the same rate"
    return ""


def _overlap(one: FloatArray, other: FloatArray) -> float:
    """The shared part of two ranges / their joint range; 0 where that is no range."""
    if not (one.size and other.size) or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0
    shared = min(one.max(), other.max()) - max(one.min(), other.min())
    joint = max(one.max(), other.max()) - min(one.min(), other.min())
    return float(max(0.0, shared) / joint) if joint > 0 else 0.0


def _monotone(logs: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Isotonic regression of the scores; each plateau becomes one point, at the mean log rate."""
    from scipy.optimize import isotonic_regression

    fitted = np.asarray(isotonic_regression(scores).x)
    levels, index, sizes = np.unique(fitted, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=logs) / sizes, levels


def _bd_rate(
    curve_a: tuple[FloatArray, FloatArray],
    curve_b: tuple[FloatArray, FloatArray],
    method: Method,
    overlap: float,
    min_overlap: float,
) -> tuple[float | None, str]:
    for name, curve in (("first", curve_a), ("second", curve_b)):
        if len(curve[0]) < FEWEST_POINTS:
            return None, f"no BD-rate: the {name} curve rises over only {len(curve[0])} of its points"
    if overlap < min_overlap:
        return None, f"no BD-rate: the curves share {overlap:.0%} of their scores, {min_overlap:.0%} are needed"
    from bjontegaard import bd_rate

    value: Any = bd_rate(
        10 ** curve_a[0], curve_a[1], 10 ** curve_b[0], curve_b[1],
        method=method, require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return float(value), ""


def _bd_score(
    curve_a: tuple[FloatArray, FloatArray],
    curve_b: tuple[FloatArray, FloatArray],
    method: Method,
    overlap: float,
    min_overlap: float,
) -> tuple[float | None, str]:
    if overlap < min_overlap:
        return None, f"no BD-score: the curves share {overlap:.0%} of their rates, {min_overlap:.0%} are needed"
    from bjontegaard import bd_psnr

    value: Any = bd_psnr(
        10 ** curve_a[0], curve_a[1], 10 ** curve_b[0], curve_b[1],
        method=method, require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return float(value), ""
