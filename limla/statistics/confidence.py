"""Does a model's confidence say how often it is right?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.crossed import FloatArray
from limla.statistics.intervals import Interval, proportion_interval


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error and what it is made of.

    Attributes:
        value: the error, in [0, 1]; biased upwards, because the noise of each bin counts as error.
        low, high: interval of the error without that bias, so it may lie below `value`; from 0 where noise explains it.
        value_if_calibrated: what a perfectly calibrated model would show on average in a sample like this.
        edges: (B + 1,) the bins' borders in [0, 1]; bin b holds confidences in (edges[b], edges[b + 1]].
        num_samples: (B,) images per bin.
        mean_confidence, accuracy: (B,) per bin; NaN where it is empty.
    """

    value: float
    low: float
    high: float
    value_if_calibrated: float
    edges: FloatArray
    num_samples: npt.NDArray[np.int64]
    mean_confidence: FloatArray
    accuracy: FloatArray


def expected_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    num_bins: int = 15,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> CalibrationError:
    """The mean over images of |accuracy − confidence| in bins of equal width (Guo et al., ICML 2017).

    Args:
        confidence: (N,) the probability of the predicted class, in [0, 1].
        correct: (N,) bool.
        num_bins: bins of equal width.
        level: of the two-sided interval, in (0, 1).
        num_resamples, seed: of the simulation behind the interval.

    Everything is NaN but the bins where there are no images.

    Raises:
        ValueError: shapes differ, or a confidence outside [0, 1].
        SettingsError: fewer than one bin, or a level outside (0, 1).
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"confidences of shape {sure.shape} and outcomes of shape {right.shape}: both (N,)")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    if num_bins < 1:
        raise SettingsError(f"num_bins {num_bins} must be at least 1, for example 15")
    if not 0 < level < 1:
        raise SettingsError(f"level {level} must lie between 0 and 1, for example 0.95")
    edges = np.linspace(0, 1, num_bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, num_bins - 1)
    num_samples = np.bincount(index, minlength=num_bins)
    num_right, total_sure = (
        np.bincount(index, weights=weights, minlength=num_bins).astype(np.float64) for weights in (right, sure)
    )
    with np.errstate(invalid="ignore"):
        accuracy, mean_confidence = num_right / num_samples, total_sure / num_samples
    value, (low, high), if_calibrated = math.nan, Interval(math.nan, math.nan), math.nan
    if sure.size:
        is_used = num_samples > 0
        bins = _Bins(num_samples[is_used], num_right[is_used], total_sure[is_used], num_resamples, seed)
        value, (low, high), if_calibrated = bins.value, bins.interval(level), float(bins.simulated(0.0).mean())
    return CalibrationError(
        value, low, high, if_calibrated, edges, num_samples.astype(np.int64), mean_confidence, accuracy
    )


class _Bins:
    """The bins with images in them, and what their error would be in other samples."""

    def __init__(
        self,
        num_samples: npt.NDArray[np.int64],
        num_right: FloatArray,
        total_sure: FloatArray,
        num_resamples: int,
        seed: int,
    ):
        self.num_samples, self.num_right = num_samples, num_right
        self.gaps = (num_right - total_sure) / num_samples.sum()
        self.value = float(np.abs(self.gaps).sum())
        self.mean_sure = total_sure / num_samples
        # a bin in which all are right is not without noise: one image is added, right with the mean confidence
        self.share_right = (num_right + self.mean_sure) / (num_samples + 1)
        half = np.random.default_rng(seed).standard_normal(((num_resamples + 1) // 2, len(num_samples)))
        self.noise = np.concatenate([half, -half])

    def simulated(self, scale: float) -> FloatArray:
        """(B,) errors of samples whose bins truly miss by `scale` times what was seen."""
        share = np.clip(self.mean_sure + scale * (self.share_right - self.mean_sure), 0, 1)
        spread = np.sqrt(self.num_samples * share * (1 - share)) / self.num_samples.sum()
        return np.abs(scale * self.gaps + self.noise * spread).sum(axis=1)

    def interval(self, level: float) -> Interval:
        """The errors under which a sample like this is not unlikely (test inversion: Carpenter, JRSS B 61, 1999).

        A percentile bootstrap fails here: its samples carry the noise twice, and near 0 its interval misses the truth.
        Instead all gaps are scaled together until the value seen is at either end of what would be simulated.

        The error is at least |accuracy − mean confidence| over all images, so it is not bounded below what Wilson's
        interval leaves possible for that: a hundred sure and right answers do not prove a model that never errs.
        """
        tail = (1 - level) / 2
        low, high = (self._scale_with(1 - end) * self.value for end in (tail, 1 - tail))
        total = int(self.num_samples.sum())
        overall = float((self.num_samples * self.mean_sure).sum()) / total
        accuracy = proportion_interval(round(float(self.num_right.sum())), total, level)
        return Interval(low, max(high, abs(accuracy.low - overall), abs(accuracy.high - overall)))

    def _scale_with(self, quantile: float) -> float:
        """The scale at which `quantile` of the simulated errors lie below the value seen; 0 where even none does."""

        def excess(scale: float) -> float:
            return float(np.quantile(self.simulated(scale), quantile)) - self.value

        if excess(0.0) >= 0 or self.value == 0:
            return 0.0
        low, high = 0.0, 1.0
        while excess(high) < 0:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high
