"""What the pages made from benchmark JSON share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine_line(data: dict[str, Any]) -> str:
    """The machine, the versions and the date of a JSON record."""
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    system = f"{machine['system']}, " if "system" in machine else ""
    return (
        f"{machine['cpu']}, {machine['num_cores']} cores, {machine['memory_gib']} GiB, {system}"
        f"Python {machine['python']}; {versions}; {machine['date']}"
    )


def ratio_row(data: dict[str, Any], contender: str, part: str, reference: str) -> dict[str, Any] | None:
    """Contender over reference in a comparison's record; None where it was not measured."""
    for row in data["ratios"]:
        if (row["contender"], row["part"], row["reference"]) == (contender, part, reference):
            return row
    return None
