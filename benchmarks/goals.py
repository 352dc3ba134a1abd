"""What was asked for, and whether a measured run reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compare import DALI_AS_DOCUMENTED, LIMLA_DALI, WEBDATASET_PIL
from tables import ratio_row, table

from limla.benchmarking.comparisons import (
    DECODE_LIMIT,
    LIMLA_ATTACKS,
    LIMLA_CPU,
    REENCODE,
    REENCODE_LIMIT,
    TORCHATTACKS,
)

MAX_REENCODE_MB = 250
FLAT = 1.05
"""The largest ratio of peak memories, 20 times the images to once, that counts as flat."""


@dataclass(frozen=True)
class Goal:
    """A ratio that the issue asks for: contender over reference in one benchmark.

    Without `required` and `aim` nothing is asked for: the ratio is shown where it was measured.
    """

    benchmark: str
    contender: str
    part: str
    reference: str
    required: float | None = None
    aim: float | None = None


GOALS = (
    Goal("reencode", REENCODE, "", REENCODE_LIMIT, 0.90, 0.95),  # the limit: encodes of RGB
    Goal("load", LIMLA_CPU, "", DECODE_LIMIT, 0.58, 0.85),
    Goal("load", LIMLA_CPU, "", WEBDATASET_PIL, 3.0, 4.5),
    Goal("load", LIMLA_CPU, "", LIMLA_DALI, 2.2, 3.5),
    Goal("load", LIMLA_CPU, "", DALI_AS_DOCUMENTED),
    Goal("evaluate", LIMLA_ATTACKS, "pgd", TORCHATTACKS, 3.5, 5.0),
)


def goals_table(measured: dict[str, dict[str, Any]]) -> str:
    """A row for each goal: what was asked for and what the records, benchmark name → JSON, hold of it."""
    rows: list[list[str]] = []
    for goal in GOALS:
        data = measured.get(goal.benchmark)
        ratio = data and ratio_row(data, goal.contender, goal.part, goal.reference)
        if ratio is None and goal.required is None:
            continue
        what = f"{goal.contender}{f', {goal.part.upper()}' if goal.part else ''}"
        bounds = ("–" if bound is None else f"≥ {bound:g}" for bound in (goal.required, goal.aim))
        wanted = [what, goal.reference, *bounds]
        shown = (
            [
                f"**{ratio['median']:.2f}** ({ratio['low']:.2f}–{ratio['high']:.2f})",
                _verdict(ratio["median"], goal),
            ]
            if ratio
            else ["–", "not measured yet"]
        )
        rows.append(wanted + shown)
    rows += [_memory_goal(measured.get("reencode")), *_growth_goals(measured.get("growth"))]
    return table(["", "against", "required", "aim", "measured", ""], rows)


def _verdict(value: float, goal: Goal) -> str:
    if goal.required is None or goal.aim is None:
        return ""
    return (
        "aim reached"
        if value >= goal.aim
        else "required reached"
        if value >= goal.required
        else "**not reached**"
    )


def _memory_goal(data: dict[str, Any] | None) -> list[str]:
    wanted = ["peak memory of re-encoding", "–", f"< {MAX_REENCODE_MB} MB", "–"]
    if data is None:
        return [*wanted, "–", "not measured yet"]
    peak = next(row for row in data["contenders"] if row["contender"] == REENCODE)["peak_memory_mb"]
    if peak is None:
        return [*wanted, "–", "not to be measured on this kernel"]
    reached = "required reached" if peak < MAX_REENCODE_MB else "**not reached**"
    return [*wanted, f"**{peak:.0f} MB** at {data['settings']['threads']} threads", reached]


def _growth_goals(data: dict[str, Any] | None) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in data["growth"] if data else ():
        if row["peak_memory_ratio"] is None:
            continue
        few, many = row["num_images"][0], row["num_images"][-1]
        flat = "flat" if row["peak_memory_ratio"] <= FLAT else "**grows**"
        rows.append(
            [
                f"peak memory of {row['stage']}, {many:,} images",
                f"{few:,} images",
                f"≤ {FLAT:g}",
                "–",
                f"**{row['peak_memory_ratio']:.2f}**",
                flat,
            ]
        )
    return rows
