"""The range coder of the svd codec: what goes in comes out, short, and garbage ends."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs.entropy import MOST, RowModel, RowReader, Rows, RowWriter

NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(-100, 100), st.integers(-MOST, MOST), st.sampled_from((MOST, -MOST))
)
GOLDEN = 880892297
"""CRC-32 of the bytes of a table of numbers."""


def written(rows: list[Rows]) -> bytes:
    writer, model = RowWriter(), RowModel()
    for row in rows:
        writer.write(row, model)
    return writer.finish()


def read(data: bytes, count: int, length: int) -> list[Rows]:
    reader, model = RowReader(data), RowModel()
    return [reader.read(length, model) for _ in range(count)]


def laplace_rows(count: int, length: int, seed: int = 0) -> tuple[list[Rows], float]:
    """Rows of which each is a little weaker than the one before, and the bytes that they are worth."""
    generator = np.random.default_rng(seed)
    rows: list[Rows] = []
    nats = 0.0
    for number in range(count):
        width = 300 * 0.97**number
        row = np.rint(generator.laplace(0, width, length)).astype(np.int32)
        half = np.exp(-0.5 / width)
        zero = 1 - half
        other = 0.5 * half * (1 - np.exp(-1 / width)) * np.exp(-(np.abs(row) - 1) / width)
        nats -= np.log(np.where(row == 0, zero, other)).sum()
        rows.append(row)
    return rows, nats / np.log(2) / 8


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 20).flatmap(
        lambda length: st.lists(st.lists(NUMBERS, min_size=length, max_size=length), max_size=12)
    )
)
def test_what_is_written_is_read(rows: list[list[int]]) -> None:
    arrays = [np.array(row, np.int32) for row in rows]
    length = len(rows[0]) if rows else 0
    assert [row.tolist() for row in read(written(arrays), len(rows), length)] == rows


def test_long_rows_with_carries_and_growing_room_are_read() -> None:
    """Numbers near the ends of likely and unlikely: the writer's carries run back over bytes of 255."""
    generator = np.random.default_rng(1)
    for chance in (0.5, 0.01, 0.0005):
        rows = [
            np.where(generator.random(20_000) < chance, generator.integers(-MOST, MOST + 1, 20_000), 0).astype(
                np.int32
            )
            for _ in range(5)
        ]
        assert all(np.array_equal(*pair) for pair in zip(rows, read(written(rows), 5, 20_000), strict=True))


def test_the_bytes_are_near_the_entropy() -> None:
    """Nothing of the distribution is told: it is learnt, neighbour by neighbour."""
    rows, worth = laplace_rows(150, 400)
    assert worth < len(written(rows)) < 1.04 * worth
    assert len(written([np.zeros(400, np.int32)] * 150)) < 60


def test_the_bytes_are_the_same_on_every_machine() -> None:
    rows = [np.arange(-50, 50, dtype=np.int32) * 10 * number**2 for number in range(40)]
    assert zlib.crc32(written(rows)) == GOLDEN


def test_a_strided_row_is_the_same_row() -> None:
    rows, _ = laplace_rows(2, 60)
    strided = [np.repeat(row, 2)[::2] for row in rows]
    assert written(strided) == written(rows)


def test_garbage_gives_numbers_and_ends() -> None:
    generator = np.random.default_rng(2)
    for _ in range(300):
        rows = read(generator.bytes(int(generator.integers(0, 100))), 5, 200)
        assert all(np.abs(row).max() <= MOST for row in rows)


def test_more_than_was_written_is_seen() -> None:
    rows, _ = laplace_rows(10, 200)
    data = written(rows)
    reader, model = RowReader(data), RowModel()
    for row in rows:
        assert np.array_equal(reader.read(200, model), row)
        assert not reader.is_past_end
    reader.read(2000, model)
    assert reader.is_past_end
    half, model = RowReader(data[: len(data) // 2]), RowModel()
    for _ in rows:
        half.read(200, model)
    assert half.is_past_end
