"""The tables beside the page: rows as Parquet, what follows from them as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of, write_both
from limla.comparison.curves import CodecDifference, Crossing, QualityMean
from limla.comparison.measuring import ComparisonRow, row_table
from limla.results import write_table

ROWS, MEANS, DIFFERENCES, CROSSINGS = "rows.parquet", "rates", "bd", "crossings"
"""Names of files; the last three without their endings."""


def write_tables(
    folder: Path,
    rows: Sequence[ComparisonRow],
    means: Sequence[QualityMean],
    differences: Sequence[CodecDifference],
    crossings: Sequence[Crossing],
) -> None:
    """Write all; existing files are replaced."""
    write_table(folder / ROWS, row_table(rows))
    write_both(folder, MEANS, _table(QualityMean, means))
    write_both(folder, DIFFERENCES, _table(CodecDifference, differences))
    write_both(folder, CROSSINGS, _table(Crossing, crossings))


def _table(row_type: type, rows: Sequence[Any]) -> pa.Table:
    return table_of((values_of(row) for row in rows), pa.schema(columns_of(row_type)))
