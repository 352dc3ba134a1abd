"""Which sample comes when, on which rank: the same for every loader that can reach samples at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from limla.loaders.base import LoaderSettings


def num_rank_samples(num_samples: int, settings: LoaderSettings) -> int:
    """Samples of one pass on this rank.

    Training: ceil(num_samples / world_size) on every rank. Evaluation: what lies in this rank's batches.
    """
    if settings.training:
        return -(-num_samples // settings.world_size)
    whole, rest = divmod(num_samples, settings.batch_size)
    mine = len(range(settings.rank, whole, settings.world_size)) * settings.batch_size
    return mine + (rest if whole % settings.world_size == settings.rank else 0)


def num_rank_batches(num_samples: int, settings: LoaderSettings) -> int:
    """Batches of one pass on this rank."""
    return -(-num_rank_samples(num_samples, settings) // settings.batch_size)


def rank_batches(num_samples: int, settings: LoaderSettings, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """The sample indices of each batch of this rank, (n,) int64 with 1 ≤ n ≤ batch_size.

    Evaluation: consecutive indices; rank r has the global batches r, r + world_size, … Each index comes once.

    Training: a uniform permutation of all samples from (seed, epoch), so shards and the samples in them are
    shuffled together. Rank r takes every world_size-th; the permutation is continued from its own start until
    every rank has the same number (as torch's DistributedSampler does), so up to world_size - 1 samples come
    twice and none is dropped.
    """
    size = settings.batch_size
    if not settings.training:
        for start in range(settings.rank * size, num_samples, size * settings.world_size):
            yield np.arange(start, min(start + size, num_samples))
        return
    shuffled = np.random.default_rng((settings.seed, epoch)).permutation(num_samples)
    total = num_rank_samples(num_samples, settings) * settings.world_size
    mine = np.resize(shuffled, total)[settings.rank :: settings.world_size]
    for start in range(0, len(mine), size):
        yield mine[start : start + size]
