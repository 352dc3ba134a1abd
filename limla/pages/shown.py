"""Tables as the page shows them: headings, texts, and what is left to the CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_ROWS = 400
"""A table longer than this is cut; its file holds every row."""
OPEN_ROWS = 30
"""A table longer than this stands folded."""


@dataclass(frozen=True)
class Column:
    """A heading, and whether the column holds numbers."""

    title: str
    is_number: bool = True


@dataclass(frozen=True)
class ShownTable:
    """A table of texts.

    Attributes:
        caption: what a row is, and in what units.
        columns: headings.
        rows: texts, as many as there are columns; at most `MAX_ROWS`.
        num_rows: of the whole table.
        file: the name of the CSV file that holds it whole, "" where there is none.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    num_rows: int
    file: str

    @property
    def is_folded(self) -> bool:
        """Whether it stands folded."""
        return len(self.rows) > OPEN_ROWS

    @property
    def is_cut(self) -> bool:
        """Whether rows are left out."""
        return len(self.rows) < self.num_rows


def shown_table(
    caption: str, columns: Sequence[Column | str], rows: Iterable[Sequence[str]], file: str = ""
) -> ShownTable | None:
    """A table of the first `MAX_ROWS` of `rows`; headings given as text are of text columns. None without rows."""
    every = [tuple(row) for row in rows]
    heads = tuple(Column(item, False) if isinstance(item, str) else item for item in columns)
    assert all(len(row) == len(heads) for row in every)
    return ShownTable(caption, heads, tuple(every[:MAX_ROWS]), len(every), file) if every else None


def share(value: float | None, digits: int = 1) -> str:
    """ "91.2%"; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}%"


def bounds(low: float | None, high: float | None, digits: int = 1) -> str:
    """ " [88.0, 93.6]", in percent without its sign; "" where an end is not known."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f" [{signless(100 * low, digits)}, {signless(100 * high, digits)}]"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points: "+1.2", "−0.4", "0.0"; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    rounded = round(100 * value, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def signless(value: float, digits: int) -> str:
    """A number with a minus sign as typesetters write it, and no plus sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def probability(value: float | None) -> str:
    """A p-value: "0.032", "< 0.001"; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else signless(value, digits)
