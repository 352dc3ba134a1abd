"""Does a model's confidence say how often it is right?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.crossed import FloatArray, resampled_means


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error and what it is made of.

    Attributes:
        value: the error, in [0, 1].
        low, high: bootstrap interval.
        edges: (B + 1,) the bins' borders in [0, 1]; bin b holds confidences in (edges[b], edges[b + 1]].
        num_samples: (B,) images per bin.
        mean_confidence, accuracy: (B,) per bin; NaN where it is empty.
    """

    value: float
    low: float
    high: float
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
        level, num_resamples, seed: of the bootstrap interval.

    Raises:
        ValueError: shapes differ, or a confidence outside [0, 1].
        SettingsError: fewer than one bin.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"confidences of shape {sure.shape} and outcomes of shape {right.shape}: both (N,)")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    if num_bins < 1:
        raise SettingsError(f"num_bins {num_bins} must be at least 1, for example 15")
    edges = np.linspace(0, 1, num_bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, num_bins - 1)
    num_samples = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, weights=right, minlength=num_bins) / num_samples
        mean_confidence = np.bincount(index, weights=sure, minlength=num_bins) / num_samples
    value = low = high = math.nan
    if sure.size:
        gaps = np.zeros((sure.size, num_bins))
        gaps[np.arange(sure.size), index] = right - sure
        value = float(np.abs(gaps.mean(axis=0)).sum())
        draws = np.abs(resampled_means(gaps, num_resamples, np.random.default_rng(seed))).sum(axis=1)
        tail = (1 - level) / 2
        low, high = map(float, np.quantile(draws, [tail, 1 - tail]))
    return CalibrationError(value, low, high, edges, num_samples, mean_confidence, accuracy)
