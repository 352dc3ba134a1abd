"""Grids of small whole numbers through the range coder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import grid_coding
from limla.codecs.grid_coding import GridReader, Grids, GridWriter
from limla.errors import DataError

LENGTHS = grid_coding._SHARED_LENGTH, grid_coding._OWN_LENGTH


def write(*groups: Grids) -> bytes:
    writer = GridWriter()
    for grids in groups:
        writer.write(grids)
    return writer.finish()


def laplace(shape: tuple[int, int, int], spread: float, seed: int) -> Grids:
    numbers = np.random.default_rng(seed).laplace(0, spread, shape)
    return np.clip(np.rint(numbers), -127, 127).astype(np.int8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20)), max_size=4),
    spread=st.sampled_from([0.0, 0.1, 1.0, 10.0, 300.0]),
    seed=st.integers(0, 10_000),
)
def test_numbers_come_back(shapes: list[tuple[int, int, int]], spread: float, seed: int) -> None:
    groups = [laplace(shape, spread, seed + number) for number, shape in enumerate(shapes)]
    reader = GridReader(write(*groups))
    for grids in groups:
        assert np.array_equal(reader.read(grids.shape), grids)
    reader.finish()


@pytest.mark.parametrize("number", [-127, -16, -15, -14, 0, 14, 15, 16, 127])
def test_each_size_of_number_comes_back(number: int) -> None:
    grids = np.zeros((2, 9, 11), np.int8)
    grids[:, ::3, ::2] = number
    grids[1, 4, 4] = -number
    assert np.array_equal(GridReader(write(grids)).read(grids.shape), grids)


def test_carries_reach_bytes_already_written() -> None:
    # thousands of unlikely numbers after likely ones push the low end over many 255s
    grids = np.zeros((3, 60, 70), np.int8)
    grids[:, ::9, ::13] = 5
    grids[1:, 1::17, 2::19] = -120
    for seed in range(20):
        noisy = grids + laplace(grids.shape, 0.2, seed)
        assert np.array_equal(GridReader(write(noisy)).read(noisy.shape), noisy)


def test_it_comes_near_to_the_entropy() -> None:
    grids = laplace((4, 100, 100), 1.0, 0)
    chances = np.unique(grids, return_counts=True)[1] / grids.size
    entropy_bytes = -(chances * np.log2(chances)).sum() * grids.size / 8
    # the first grid pays for being taken for smooth
    assert len(write(grids)) < 1.06 * entropy_bytes
    assert len(write(np.zeros((1, 300, 300), np.int8))) < 40


def test_it_learns_from_neighbours_and_from_the_grids_before() -> None:
    busy = np.kron(np.random.default_rng(1).random((10, 10)) < 0.3, np.ones((10, 10), np.int8))
    grids = laplace((6, 100, 100), 2.0, 2) * busy.astype(np.int8)
    mixed = np.random.default_rng(3).permuted(grids.reshape(6, -1), axis=1).reshape(grids.shape)
    assert len(write(grids)) < 0.8 * len(write(mixed))


def test_data_that_end_too_soon_or_too_late_are_refused() -> None:
    grids = laplace((3, 30, 40), 2.0, 5)
    data = write(grids)
    for wrong in (b"", data[:1], data[:3], data[: len(data) // 2]):
        with pytest.raises(DataError, match="go on after the end"):
            GridReader(wrong).read(grids.shape)
    reader = GridReader(data + b"\0")
    reader.read(grids.shape)
    with pytest.raises(DataError, match="end before the data do"):
        reader.finish()


class Fenced(list[int]):
    """Memory that fails where a pointer would read or write what is not its own."""

    def __getitem__(self, place: Any) -> Any:
        assert 0 <= place < len(self), place
        return super().__getitem__(place)

    def __setitem__(self, place: Any, value: Any) -> None:
        assert 0 <= place < len(self), place
        super().__setitem__(place, value)


@pytest.mark.parametrize("smooth", [0, 1])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(max_size=60) | st.sampled_from([b"\xff" * 300, b"\xfe\xff" * 150, b"\xff\x7f" * 150]))
def test_the_kernel_stays_inside_its_memory_whatever_it_reads(smooth: int, data: bytes) -> None:
    shared, own = (Fenced([grid_coding._EVEN] * length) for length in LENGTHS)
    before = Fenced([0] * 42)
    state = Fenced([0, grid_coding._FULL, int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 4])
    for _ in range(3):
        grid = Fenced([0] * 42)
        grid_coding._code.function(6, 7, smooth, 1, len(data), grid, before, shared, own, Fenced(data), state)
        assert -127 <= min(grid) <= max(grid) <= 127


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(max_size=300))
def test_any_data_give_numbers_or_are_refused(data: bytes) -> None:
    try:
        grids = GridReader(data).read((3, 20, 20))
    except DataError:
        return
    assert grids.shape == (3, 20, 20)
