"""Rows on disk: whole files, equal bytes, conditions that come back as they went."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest

from limla.errors import DataError
from limla.results import (
    CONDITION_SCHEMA,
    ENCODING_SCHEMA,
    PREDICTION_SCHEMA,
    Condition,
    EncodingRow,
    PredictionRow,
    encoding_table,
    prediction_path,
    read_condition,
    read_encodings,
    read_predictions,
    read_table,
    write_predictions,
    write_table,
)

CONDITION = Condition(
    dataset="flowers",
    data_id="0123456789abcdef",
    split="test",
    task="classification",
    model="mobilenet_v2",
    checkpoint_id="fedcba9876543210",
    seed=-1,
    train_codec="jpeg",
    train_quality="1+10",
    train_method="standard",
    test_codec="jpeg",
    test_quality=10,
    simulation="",
    preprocessing="shorter256-crop224",
    attack="pgd",
    norm="linf",
    eps=8 / 255,
    attack_settings='{"alpha":0.00784313725490196,"steps":10}',
    threat="",
    defence_codec="",
    defence_quality="",
    decoder="cpu",
    precision="float32",
    batch_size=32,
)
ROWS = [
    PredictionRow("test/rose/a", 1, 1, True, 0.25, 0.75),
    PredictionRow("test/rose/b", 1, 0, False, 3.5, 0.5),
]


@pytest.mark.parametrize("quality", [10, None])
def test_a_condition_and_its_rows_come_back(tmp_path: Path, quality: int | None) -> None:
    condition = replace(CONDITION, test_quality=quality)
    path = write_predictions(tmp_path, condition, ROWS)
    assert path == prediction_path(tmp_path, condition)
    assert path.name == f"{condition.cell_id}.parquet"
    ((found, table),) = read_predictions(tmp_path)
    assert found == condition
    assert found.cell_id == condition.cell_id
    rows = table.select(PREDICTION_SCHEMA.names).to_pylist()
    assert [PredictionRow(**row) for row in rows] == ROWS
    assert table.schema.field("prediction").type == pa.int32()
    assert read_condition(read_table(path)) == condition


def test_every_field_of_the_condition_counts_in_its_id() -> None:
    other = {
        str: lambda value: value + "x",
        int: lambda value: value + 1,
        float: lambda value: value / 2,
    }
    changed = [
        replace(CONDITION, **{item.name: other[type(value)](value)})
        for item in fields(Condition)
        for value in [getattr(CONDITION, item.name)]
    ]
    ids = {condition.cell_id for condition in (CONDITION, *changed)}
    assert len(ids) == len(fields(Condition)) + 1
    assert all(len(cell_id) == 16 for cell_id in ids)
    assert CONDITION_SCHEMA.names == [item.name for item in fields(Condition)]


def test_the_id_of_a_condition_never_changes() -> None:
    """Ids name files on users' disks: if this fails, finished cells of earlier versions are lost."""
    assert CONDITION.cell_id == replace(CONDITION).cell_id == "85721228b5882159"


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    one = write_predictions(tmp_path / "one", CONDITION, ROWS)
    other = write_predictions(tmp_path / "other", CONDITION, ROWS)
    assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in one.parent.iterdir()] == [one.name], "no temporary file is left"


def test_conditions_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    for number in range(5):
        write_predictions(tmp_path, replace(CONDITION, seed=number), ROWS)
    ids = [condition.cell_id for condition, _ in read_predictions(tmp_path)]
    assert ids == sorted(ids)


def test_no_rows_are_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prediction files; run 'limla evaluate'"):
        read_predictions(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, CONDITION, ROWS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{path.name}: damaged; remove it, then run"):
        read_predictions(tmp_path)
    with pytest.raises(DataError, match="missing"):
        read_table(tmp_path / "absent.parquet")


@pytest.mark.parametrize("kind", ["foreign", "empty"])
def test_a_foreign_file_is_named(tmp_path: Path, kind: str) -> None:
    path = prediction_path(tmp_path, CONDITION)
    if kind == "foreign":
        write_table(path, pa.table({"key": ["a"]}))
    else:
        write_predictions(tmp_path, CONDITION, [])
    with pytest.raises(DataError, match="not a prediction file"):
        read_predictions(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_predictions(tmp_path, CONDITION, ROWS)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("limla.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_predictions(tmp_path, CONDITION, ROWS[:1])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_encoding_rows_come_back(tmp_path: Path) -> None:
    rows = [
        EncodingRow("test/a", "test", "source", None, 10, 20, 100, 4.0),
        EncodingRow("test/a", "test", "jpeg", 10, 10, 20, 25, 1.0, psnr_db=31.5, ssim=0.9),
    ]
    for name, row in zip(("source", "jpeg-q10"), rows, strict=True):
        write_table(tmp_path / name / "encoding.parquet", encoding_table([row]))
    table = read_encodings(tmp_path, ["source", "jpeg-q10"])
    assert table.schema.equals(ENCODING_SCHEMA)
    assert [EncodingRow(**row) for row in table.to_pylist()] == rows
