"""Means over images that are crossed with training seeds: the same images under every seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_CHUNK_NUMBERS = 4_000_000
"""So many random counts are held at once: 32 MB."""


class CrossedMean(NamedTuple):
    """The mean of an (S, G) table of seeds × source images, and how sure it is."""

    mean: float
    standard_error: float
    degrees_of_freedom: float
    seed_variance: float  # the part of standard_error² that more images would not shrink


def crossed_mean(values: FloatArray) -> CrossedMean:
    """Mean and standard error of (S, G) values, seeds and images both drawn at random.

    Two-way analysis of variance without replication: Var = (MS_seed + MS_image − MS_rest) / (S·G), each mean square's
    share counted once, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). A seed component below
    zero counts as zero. With one seed it is the standard error of a mean, and nothing is said about other seeds.
    """
    num_seeds, num_images = values.shape
    mean = float(values.mean())
    if num_images < 2:
        return CrossedMean(mean, math.nan, math.nan, math.nan)
    by_image = values.mean(axis=0)
    image_part = float(by_image.var(ddof=1)) / num_images
    if num_seeds == 1:
        return CrossedMean(mean, math.sqrt(image_part), num_images - 1, 0.0)
    by_seed = values.mean(axis=1)
    rest = values - by_image - (by_seed - mean)[:, None]
    freedom_rest = (num_seeds - 1) * (num_images - 1)
    rest_part = float((rest**2).sum()) / freedom_rest / values.size
    seed_part = float(by_seed.var(ddof=1)) / num_seeds
    # seed_part holds σ²_seed / S + σ²_rest / (S·G); the second is in image_part already
    seed_variance = max(0.0, seed_part - rest_part)
    variance = image_part + seed_variance
    if variance == 0:
        return CrossedMean(mean, 0.0, num_images - 1, 0.0)
    spread = image_part**2 / (num_images - 1)
    if seed_variance > 0:
        spread += seed_part**2 / (num_seeds - 1) + rest_part**2 / freedom_rest
    return CrossedMean(mean, math.sqrt(variance), variance**2 / spread, seed_variance)


def resampled_means(values: FloatArray, num_resamples: int, generator: np.random.Generator) -> FloatArray:
    """The (B, …) means of B bootstrap samples of the rows of (G, …) values.

    Equal rows are drawn together, as multinomial counts: with correct/wrong scores only few rows differ, however many
    images there are. Where many differ, single rows are drawn. Memory stays bounded by drawing in chunks.
    """
    total = len(values)
    rows, counts = np.unique(values.reshape(total, -1), axis=0, return_counts=True)
    means = np.empty((num_resamples, rows.shape[1]))
    draws_counts = len(rows) <= total // 10
    chunk = max(1, _CHUNK_NUMBERS // (len(rows) if draws_counts else rows.shape[1] * total))
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        if draws_counts:
            found = generator.multinomial(total, counts / total, size=size) @ rows / total
        else:
            found = values.reshape(total, -1)[generator.integers(0, total, size=(size, total))].mean(axis=1)
        means[start : start + size] = found
    return means.reshape(num_resamples, *values.shape[1:])
