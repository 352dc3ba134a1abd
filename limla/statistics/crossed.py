"""Means over images that are crossed with training seeds: the same images under every seed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_CHUNK_NUMBERS = 4_000_000
"""So many random counts are held at once: 32 MB."""


_FEW_ROWS = 500
"""Up to so many different rows multinomial counts cost nothing that would be felt."""


class CrossedMean(NamedTuple):
    """The mean of an (S, G) table of seeds × source images, and how sure it is.

    Attributes:
        mean: of all values.
        image_variance: the part of the mean's variance that more images would shrink.
        seed_variance: the part that only more seeds would shrink; 0 for one seed, which says nothing about others.
        degrees_of_freedom: of the t distribution that (mean − truth) / standard_error is judged by.
    """

    mean: float
    image_variance: float
    seed_variance: float
    degrees_of_freedom: float

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.image_variance + self.seed_variance)

    def critical(self, confidence: float) -> float:
        """So many standard errors lie between the mean and each end of a two-sided interval."""
        from scipy.stats import t

        return float(t.ppf((1 + confidence) / 2, self.degrees_of_freedom))


def crossed_mean(values: FloatArray) -> CrossedMean:
    """Mean and its variance of (S, G) values, seeds and images both drawn at random.

    Two-way analysis of variance without replication: Var = (MS_seed + MS_image − MS_rest) / (S·G), a seed component
    below zero counting as zero. Adding MS_seed and MS_image alone counts the noise twice; so does resampling rows and
    columns both (Owen, Annals of Applied Statistics 1, 2007). The parts have S − 1 and G − 1 degrees of freedom, and
    the critical value is the mean of the two t quantiles, weighted by the parts (Cochran & Cox, Experimental Designs,
    1957, section 4.14): Satterthwaite's is too small where three seeds happen to agree. NaN for a single image.
    """
    num_seeds, num_images = values.shape
    mean = float(values.mean())
    if num_images < 2:
        return CrossedMean(mean, math.nan, math.nan, math.nan)
    by_image = values.mean(axis=0)
    image_variance = float(by_image.var(ddof=1)) / num_images
    if num_seeds == 1:
        return CrossedMean(mean, image_variance, 0.0, num_images - 1)
    by_seed = values.mean(axis=1)
    rest = values - by_image - (by_seed - mean)[:, None]
    # as parts of the mean's variance: σ²_seed / S + σ²_rest / (S·G), and its second term, which image_variance has too
    seed_part = float(by_seed.var(ddof=1)) / num_seeds
    rest_part = float((rest**2).sum()) / ((num_seeds - 1) * (num_images - 1)) / values.size
    if seed_part <= rest_part:
        return CrossedMean(mean, image_variance, 0.0, num_images - 1)
    seed_variance = seed_part - rest_part
    weight = seed_part / (image_variance + seed_variance)
    freedom = _matching_freedom(min(1.0, weight), num_seeds - 1, num_images - 1)
    return CrossedMean(mean, image_variance, seed_variance, freedom)


def _matching_freedom(weight: float, few: int, many: int) -> float:
    """The degrees of freedom whose 97.5% point is the weighted mean of those of `few` (by `weight`) and `many`."""
    from scipy.optimize import brentq
    from scipy.stats import t

    wanted = weight * float(t.ppf(0.975, few)) + (1 - weight) * float(t.ppf(0.975, many))
    low, high = sorted((few, many))
    if not float(t.ppf(0.975, high)) < wanted < float(t.ppf(0.975, low)):
        return float(low if wanted >= t.ppf(0.975, low) else high)
    found: Any = brentq(lambda freedom: float(t.ppf(0.975, freedom)) - wanted, low, high)
    return float(found)


def source_sums(rows: FloatArray, groups: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """(K, G) sums of (K, N) rows over the columns of each source image, and the (G,) numbers of its columns."""
    ids = np.asarray(groups)
    if ids.shape != rows.shape[1:]:
        raise ValueError(
            f"groups of shape {ids.shape} for {rows.shape[1]} images: give one source image per column"
        )
    _, index, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=len(sizes)) for row in rows])
    return sums.astype(np.float64), sizes.astype(np.int64)


def resampled_means(values: FloatArray, num_resamples: int, generator: np.random.Generator) -> FloatArray:
    """The (B, …) means of B bootstrap samples of the rows of (G, …) values.

    Equal rows are drawn together, as multinomial counts: with correct/wrong scores only few rows differ, however many
    images there are. Where many differ, single rows are drawn and counted. Memory is bounded by drawing in chunks.
    """
    total = len(values)
    rows, counts = np.unique(values.reshape(total, -1), axis=0, return_counts=True)
    has_few = len(rows) <= max(_FEW_ROWS, total // 10)
    if not has_few:
        rows = np.repeat(rows, counts, axis=0)  # sorted: the order of the images changes nothing
    means = np.empty((num_resamples, rows.shape[1]))
    chunk = max(1, _CHUNK_NUMBERS // len(rows))
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        if has_few:
            drawn = generator.multinomial(total, counts / total, size=size)
        else:
            picks = generator.integers(0, total, size=(size, total)) + total * np.arange(size)[:, None]
            drawn = np.bincount(picks.ravel(), minlength=size * total).reshape(size, total)
        means[start : start + size] = drawn.astype(np.float64) @ rows / total
    return means.reshape(num_resamples, *values.shape[1:])
