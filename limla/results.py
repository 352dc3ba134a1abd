"""Typed rows and their Parquet files. Rows are long and append-only; every aggregate comes from rows.

One finished cell of a study is one file, `predictions/<cell_id>.parquet`, written whole or not at all: its
presence means the cell is done. Nothing is ever rewritten, so appending cannot damage what is there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limla.errors import DataError
from limla.files import atomic_open, content_id
from limla.paths import AnyPath, is_remote
from limla.storage import read_bytes

PREDICTIONS = "predictions"
_CHUNK_ROWS = 1 << 14
"""A multiple of the rows that Parquet's writer takes at a time: the file's bytes are those of one chunk."""


@dataclass(frozen=True)
class EncodingRow:
    """What one image costs at one quality, and what it loses.

    Attributes:
        key: sample key.
        split: "train", "val" or "test".
        codec, quality: "source" and None for the originals.
        height, width: pixels.
        num_bytes: size of the encoded image, headers included; "source" rows count the file as it came, though a
            converted picture is stored as PNG.
        rate_bpp: 8 · num_bytes / (height · width).
        psnr_db, ssim: against the decoded source image; None where not measured.
    """

    key: str
    split: str
    codec: str
    quality: int | None
    height: int
    width: int
    num_bytes: int
    rate_bpp: float
    psnr_db: float | None = None
    ssim: float | None = None


@dataclass(frozen=True)
class Condition:
    """Everything that a prediction depends on; equal conditions give equal predictions.

    Attributes:
        dataset: dataset name.
        data_id: content hash of the test shards (`Manifest.data_id`).
        split: the split evaluated.
        task: "classification".
        model: model name ("MobileNetV2", "package.module:function").
        checkpoint_id: first 16 hex digits of the SHA-256 of the weights file.
        seed: training seed of the model (-1 when limla did not train it).
        train_codec, train_quality: what it was trained on; quality as text: "source", "10", "1+10+50",
            "unknown" when limla did not train it.
        train_method: "standard", or how training differed from it ("random quality", "pgd linf eps 8/255 …").
        test_codec, test_quality: what it is tested on; ("source", None) for the originals.
        simulation: "" for shards; the loader that re-encoded originals on the fly ("cpu", "dali") when there were none.
        preprocessing: canonical text of resize and crop.
        attack: attack name, "none" without.
        norm, eps: of the perturbation, on the [0, 1] scale; ("", 0.0) for "none".
        attack_settings: canonical JSON of the attack's other parameters (steps, alpha, seed …).
        threat: what the attacker knows of the defence ("static", "bpda", …: `limla.plans.THREATS`); "" without attack
            or without defence.
        defence_codec, defence_quality: the codec that the (attacked) image goes through before the model, and its
            quality as text: "50", or "10+50+90" when each image's is drawn at random; "" without.
        decoder: "cpu", "dali-cpu", "dali-gpu": decoders differ, so it is part of the condition.
        precision: "float32", or "bfloat16" for clean passes that asked for it.
        batch_size: images per batch: a batched attack's random start depends on it.
    """

    dataset: str
    data_id: str
    split: str
    task: str
    model: str
    checkpoint_id: str
    seed: int
    train_codec: str
    train_quality: str
    train_method: str
    test_codec: str
    test_quality: int | None
    simulation: str
    preprocessing: str
    attack: str
    norm: str
    eps: float
    attack_settings: str
    threat: str
    defence_codec: str
    defence_quality: str
    decoder: str
    precision: str
    batch_size: int

    @property
    def cell_id(self) -> str:
        """A stable content hash of the condition: the name of its file.

        A field that conditions did not have from the beginning counts only where it says something: the ids of older
        files stay what they are.
        """
        return content_id({name: value for name, value in asdict(self).items() if ADDED.get(name) != value})


ADDED = {"train_method": "standard", "simulation": "", "threat": "", "defence_codec": "", "defence_quality": ""}
"""Fields that conditions did not have from the beginning, with what stood for them then."""


@dataclass(frozen=True)
class PredictionRow:
    """One image under one condition.

    Attributes:
        key: sample key.
        label, prediction: class indices.
        correct: prediction == label.
        loss: cross-entropy in nats.
        confidence: softmax probability of the prediction, in [0, 1].
        target: the class a targeted attack aims at; None for others.
        num_bytes: size of the image as the defence's codec encoded it; None without a defence.
    """

    key: str
    label: int
    prediction: int
    correct: bool
    loss: float
    confidence: float
    target: int | None = None
    num_bytes: int | None = None


_NONE = -1


def _optional(column: array[int]) -> pa.Array:
    """An int32 array with nulls where the column holds `_NONE`; without any value it costs nothing."""
    values = np.frombuffer(column, column.typecode)
    missing = values == _NONE
    return pa.nulls(len(values), pa.int32()) if missing.all() else pa.array(values, mask=missing)


class PredictionColumns:
    """PredictionRows in columns, 29 bytes and the key each: as objects they would take ten times as much."""

    def __init__(self, rows: Iterable[PredictionRow] = ()) -> None:
        self._keys, self._key_ends = bytearray(), array("i", (0,))
        self._labels, self._predictions, self._correct = array("i"), array("i"), array("b")
        self._losses, self._confidences = array("f"), array("f")
        self._targets, self._num_bytes = array("i"), array("i")
        self.extend(rows)

    def __len__(self) -> int:
        return len(self._labels)

    def extend(self, rows: Iterable[PredictionRow]) -> None:
        """Add rows after those that are there."""
        for row in rows:
            self._keys += row.key.encode()
            self._key_ends.append(len(self._keys))
            self._labels.append(row.label)
            self._predictions.append(row.prediction)
            self._correct.append(row.correct)
            self._losses.append(row.loss)
            self._confidences.append(row.confidence)
            self._targets.append(_NONE if row.target is None else row.target)
            self._num_bytes.append(_NONE if row.num_bytes is None else row.num_bytes)

    def table(self) -> pa.Table:
        """An Arrow table of `PREDICTION_SCHEMA`; it shares the memory of these columns."""
        keys = pa.StringArray.from_buffers(len(self), pa.py_buffer(self._key_ends), pa.py_buffer(self._keys))
        numbers = [np.frombuffer(column, column.typecode) for column in (self._labels, self._predictions)]
        reals = [np.frombuffer(column, column.typecode) for column in (self._losses, self._confidences)]
        optional = [_optional(column) for column in (self._targets, self._num_bytes)]
        columns = [keys, *numbers, np.frombuffer(self._correct, np.bool_), *reals, *optional]
        return pa.Table.from_arrays([pa.array(column) for column in columns], schema=PREDICTION_SCHEMA)


@dataclass(frozen=True)
class MetricRow:
    """One aggregate of one condition, with its 95% interval (None where none is defined)."""

    condition: Condition
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    num_samples: int


ENCODING_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("quality", pa.int32()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("rate_bpp", pa.float64(), nullable=False),
        pa.field("psnr_db", pa.float64()),
        pa.field("ssim", pa.float64()),
    ]
)
PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("target", pa.int32()),
        pa.field("num_bytes", pa.int32()),
    ]
)
_CONDITION_TYPES = {
    "seed": pa.int64(),
    "test_quality": pa.int32(),
    "eps": pa.float64(),
    "batch_size": pa.int32(),
}
CONDITION_SCHEMA = pa.schema(
    [pa.field(item.name, _CONDITION_TYPES.get(item.name, pa.string())) for item in fields(Condition)]
)
METRIC_SCHEMA = pa.schema(
    [
        *CONDITION_SCHEMA,
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("num_samples", pa.int64(), nullable=False),
    ]
)


def write_table(path: AnyPath, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all; equal tables give equal bytes."""
    with atomic_open(path) as file:
        pq.write_table(table, file, compression="zstd", store_schema=True)


def read_table(path: AnyPath, dictionaries: Sequence[str] = ()) -> pa.Table:
    """Read a Parquet file; raises `DataError` when it is missing or damaged.

    Text columns named in `dictionaries` stay dictionary-encoded: one that repeats a single value costs nothing.
    """
    try:
        return pq.read_table(parquet_source(path), read_dictionary=list(dictionaries))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; make it again") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); remove it and run the command again"
        ) from error


def parquet_source(path: AnyPath) -> Path | pa.BufferReader:
    """What pyarrow reads a Parquet file from: its path, or the bytes of one in an object store."""
    return pa.BufferReader(read_bytes(path)) if is_remote(path) else path


@contextmanager
def table_writer(path: AnyPath, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file written part by part, a row group each, whole or not at all: memory stays flat."""
    with (
        atomic_open(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", store_schema=True) as writer,
    ):
        yield writer


def encoding_table(rows: Sequence[EncodingRow]) -> pa.Table:
    """EncodingRows as an Arrow table."""
    columns = {name: [getattr(row, name) for row in rows] for name in ENCODING_SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=ENCODING_SCHEMA)


def prediction_path(results_dir: Path, condition: Condition) -> Path:
    """Where the rows of a condition stand."""
    return results_dir / PREDICTIONS / f"{condition.cell_id}.parquet"


def write_predictions(
    results_dir: Path, condition: Condition, rows: PredictionColumns | Sequence[PredictionRow]
) -> Path:
    """Store the rows of one condition; the condition travels as (dictionary-encoded) columns beside them."""
    columns = rows if isinstance(rows, PredictionColumns) else PredictionColumns(rows)
    table = columns.table()
    for item, value in zip(CONDITION_SCHEMA, asdict(condition).values(), strict=True):
        table = table.append_column(item, _repeated(pa.array([value], type=item.type), len(columns)))
    path = prediction_path(results_dir, condition)
    write_table(path, table)
    return path


def _repeated(value: pa.Array, number: int) -> pa.ChunkedArray:
    """An array of one value, `number` times; in memory once for every chunk's length, as chunks share it."""
    chunk = value.take(pa.array(np.zeros(min(number, _CHUNK_ROWS), np.int8)))
    whole, rest = divmod(number, _CHUNK_ROWS)
    return pa.chunked_array([*[chunk] * whole, chunk.slice(0, rest)], type=value.type)


def read_condition(table: pa.Table) -> Condition:
    """The condition of one prediction file's table."""
    first: dict[str, Any] = table.select(CONDITION_SCHEMA.names).slice(0, 1).to_pylist()[0]
    return Condition(**first)


def read_predictions(results_dir: Path) -> list[tuple[Condition, pa.Table]]:
    """All finished conditions of a results folder with the columns of `PREDICTION_SCHEMA`, in the order of cell ids.

    Raises `DataError` when there are none or a file is damaged.
    """
    folder = results_dir / PREDICTIONS
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise DataError(
            f"{folder}: no prediction files; run 'limla evaluate' with --output-dir {results_dir} first"
        )
    repeated = [item.name for item in CONDITION_SCHEMA if item.type == pa.string()]
    found: list[tuple[Condition, pa.Table]] = []
    for path in paths:
        try:
            table = read_table(path, dictionaries=repeated)
        except DataError as error:
            raise DataError(
                f"{path}: damaged; remove it, then run what made it again (limla evaluate, limla run or limla study "
                "run), which computes only what is missing"
            ) from error
        if table.num_rows == 0 or not set(CONDITION_SCHEMA.names) - ADDED.keys() <= set(table.column_names):
            raise DataError(f"{path}: not a prediction file of this version; remove it and evaluate again")
        table = _completed(table)
        # the columns of the condition repeat one value: dropped, they cost nothing while all tables are held
        found.append((read_condition(table), table.select(PREDICTION_SCHEMA.names)))
    return found


def _completed(table: pa.Table) -> pa.Table:
    """A prediction table with the columns that files of older versions lack."""
    for item in (*CONDITION_SCHEMA, *PREDICTION_SCHEMA):
        if item.name not in table.column_names:
            value = pa.array([ADDED.get(item.name)], type=item.type)
            table = table.append_column(item, _repeated(value, table.num_rows))
    return table


def read_encodings(data_dir: AnyPath, variants: Sequence[str]) -> pa.Table:
    """The EncodingRows of the named variants of a dataset as one table."""
    return pa.concat_tables([read_table(data_dir / name / "encoding.parquet") for name in variants])
