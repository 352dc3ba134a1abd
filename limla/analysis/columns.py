"""Rows as Arrow tables, the columns of a dataclass whose fields are plain values; tables as CSV and Parquet files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from limla.files import write_bytes
from limla.results import write_table

_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
}


def columns_of(row_type: type, prefix: str = "") -> list[pa.Field]:
    """A column for each field of a dataclass that is text or a number; None and NaN become null: not known.

    Fields of other types are left out: they are flattened by who knows them.
    """
    return [
        pa.field(prefix + item.name, _TYPES[str(item.type)])
        for item in fields(row_type)
        if str(item.type) in _TYPES
    ]


def values_of(row: Any, prefix: str = "") -> dict[str, Any]:
    """The values of `columns_of` the row's type."""
    values = {item.name: getattr(row, item.name) for item in fields(row) if str(item.type) in _TYPES}
    # only NaN differs from itself
    return {prefix + name: None if value != value else value for name, value in values.items()}


def table_of(records: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Records, one dict per row with the schema's names, as a table; without any it has the columns all the same."""
    return pa.Table.from_pylist([dict(record) for record in records], schema=schema)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV file (RFC 4180, UTF-8), whole or not at all; None and NaN are empty fields."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    write_bytes(path, buffer.getvalue().encode("utf-8"))
    return path


def _field(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def write_both(folder: Path, name: str, table: pa.Table) -> None:
    """Write `folder/name.csv` and `folder/name.parquet`; NaN is null in both."""
    table = _without_nan(table)
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    write_csv(folder / f"{name}.csv", table.column_names, rows)
    write_table(folder / f"{name}.parquet", table)


def _without_nan(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.columns):
        if pa.types.is_floating(column.type):
            known = pc.call_function(
                "if_else", [pc.call_function("is_nan", [column]), pa.scalar(None, column.type), column]
            )
            table = table.set_column(place, table.schema.field(place).with_nullable(True), known)
    return table
