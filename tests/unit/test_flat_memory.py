"""What keeps memory flat: records in columns, and shards that are let go of."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from limla.loaders import source as loader_source
from limla.loaders.source import ShardSource
from limla.packing.planning import Photo
from limla.packing.reading import Refused, prepare
from limla.packing.rows import Rows
from limla.packing.settings import PackSettings
from limla.results import PREDICTION_SCHEMA, PredictionColumns, PredictionRow
from limla.shard_reader import read_index
from limla.shards import open_shard, shard_name


def test_rows_come_back_and_pickle() -> None:
    rows = Rows(Photo.parse, [("a/b.jpg", 3, "", 1), ("caf\udce9/ü x.png", 0, "cafe/u-x-12345678", 20)])
    expected = [Photo("a/b.jpg", 3, "a/b", 1), Photo("caf\udce9/ü x.png", 0, "cafe/u-x-12345678", 20)]
    assert list(rows) == expected == list(pickle.loads(pickle.dumps(rows)))
    assert rows[-1] == expected[-1]
    assert rows[:1] == expected[:1]
    with pytest.raises(IndexError):
        rows[2]


def test_a_photo_of_a_plan_costs_its_name_and_little_more() -> None:
    number = 20_000
    tracemalloc.start()
    rows = Rows(Photo.parse, ((f"class/photo{place:06d}.jpg", 4000, "", 7) for place in range(number)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == number
    assert held / number < 60


def test_reading_a_photo_leaves_its_name_in_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo1.jpg").write_bytes(b"no picture")
    kept: list[str] = []
    monkeypatch.setattr(sys, "intern", lambda name: kept.append(name) or name)
    result = prepare(tmp_path, Photo("photo1.jpg", 10, "photo1", 0), PackSettings())
    assert isinstance(result, Refused)
    assert "photo1.jpg" not in kept
    assert str(tmp_path / "photo1.jpg").endswith(kept[-1]), "pathlib keeps names: what this test is for"


def test_predictions_in_columns_are_the_rows() -> None:
    rows = [PredictionRow("a/b", 1, 1, True, 0.25, 0.75), PredictionRow("a/c", 1, 0, False, 3.5, 0.5)]
    columns = PredictionColumns(rows[:1])
    columns.extend(rows[1:])
    expected = pa.Table.from_pylist([vars(row) for row in rows], schema=PREDICTION_SCHEMA)
    assert columns.table().equals(expected)
    assert PredictionColumns().table().equals(expected.slice(0, 0))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSource:
    """Five shards of two samples each, of which two at most are mapped at once."""
    monkeypatch.setattr(loader_source, "_MAPPED_AT_ONCE", 2)
    entries = []
    for shard in range(5):
        name = shard_name("test", shard)
        with open_shard(tmp_path / name) as writer:
            for number in range(2):
                members = {"jpg": b"%d" % (2 * shard + number), "cls": b"0", "json": b"{}"}
                writer.add(f"c/{shard}-{number}", members)
        entries.append(writer.entry(name, "test"))
    return ShardSource("test", ("c",), [tmp_path] * 5, entries)


def test_few_shards_are_mapped_and_their_bytes_outlive_that(source: ShardSource) -> None:
    for _ in range(2):
        records = [source.read(index) for index in range(10)]
        assert [bytes(record.image) for record in records] == [b"%d" % index for index in range(10)]
        assert sorted(source._readers) == [3, 4]
    source.close()


def test_a_pass_in_order_lets_go_of_what_lies_behind_it(source: ShardSource) -> None:
    for index in range(10):
        source.read(index)
        source.forget(index)
        assert set(source._indexes) == {index // 2}
    assert source.read(0).key == "c/0-0"
    source.close()


def test_an_index_gives_places_in_any_order_of_members(tmp_path: Path) -> None:
    with open_shard(tmp_path / "a.tar") as writer:
        writer.add("x", {"jpg": b"12", "cls": b"0", "json": b"{}"})
        writer.add("y", {"cls": b"0", "png": b"123"})
    first, second = read_index(tmp_path / "a.tar")
    assert (first.key, first.extension, list(first.members)) == ("x", "jpg", ["jpg", "cls", "json"])
    assert (second.key, second.extension, second.members["png"][1]) == ("y", "png", 3)
