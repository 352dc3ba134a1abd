"""Rows as Arrow tables: the columns of a dataclass whose fields are plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa

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
