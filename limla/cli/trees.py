"""What the commands on folders of loose files say at their end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from limla.trees import TreeResult

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def size_text(num_bytes: int) -> str:
    """A number of bytes for people: "812 bytes", "3.8 MB"."""
    for unit, factor in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def show_end(result: TreeResult, line: str) -> None:
    """Print `line` where there are results, then what was passed over; raises `DataError` where files were refused."""
    if result.summary:
        click.echo(f"{line}; {result.num_made} made now, {len(result.rows) - result.num_made} were there")
    show_skipped(result.skipped)
    result.check_whole()


def show_skipped(skipped: Counter[str]) -> None:
    """Print how many entries of a folder were passed over, by reason."""
    if skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))
        click.echo(f"skipped {skipped.total()}: {reasons}")
