"""Which sample comes when: exactly once in evaluation, equally often and reproducibly in training."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings
from limla.loaders.order import num_rank_batches, num_rank_samples, rank_batches


def indices(num_samples: int, settings: LoaderSettings, epoch: int = 0) -> list[int]:
    batches = list(rank_batches(num_samples, settings, epoch))
    assert len(batches) == num_rank_batches(num_samples, settings)
    assert all(1 <= len(batch) <= settings.batch_size for batch in batches)
    assert all(len(batch) == settings.batch_size for batch in batches[:-1])
    flat = [int(index) for batch in batches for index in batch]
    assert len(flat) == num_rank_samples(num_samples, settings)
    return flat


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 9))
def test_evaluation_ranks_cover_every_sample_once(num_samples: int, batch_size: int, world_size: int) -> None:
    of_ranks = [
        indices(num_samples, LoaderSettings(batch_size=batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(chain(*of_ranks)) == list(range(num_samples))
    assert all(rank == sorted(rank) for rank in of_ranks)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_training_ranks_are_equal_and_complete(
    num_samples: int, batch_size: int, world_size: int, seed: int
) -> None:
    def of_rank(rank: int) -> LoaderSettings:
        return LoaderSettings(batch_size=batch_size, rank=rank, world_size=world_size, training=True, seed=seed)

    of_ranks = [indices(num_samples, of_rank(rank), epoch=2) for rank in range(world_size)]
    assert len({len(rank) for rank in of_ranks}) == 1
    counts = Counter(chain(*of_ranks))
    assert set(counts) == set(range(num_samples))
    assert sum(counts.values()) - num_samples < world_size
    one = indices(num_samples, LoaderSettings(batch_size=batch_size, training=True, seed=seed), epoch=2)
    assert list(chain(*zip(*of_ranks, strict=True)))[:num_samples] == one


def test_shuffling_is_uniform_over_shards() -> None:
    """The first sample of an epoch comes from anywhere: no shard order shows."""
    settings = LoaderSettings(batch_size=1, training=True)
    firsts = [int(next(rank_batches(1000, settings, epoch))[0]) for epoch in range(400)]
    assert abs(np.mean(firsts) - 499.5) < 4 * 1000 / np.sqrt(12 * 400)
    assert len(set(firsts)) > 300


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"num_threads": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}, {"augment": True}],
)
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        LoaderSettings(**wrong)
