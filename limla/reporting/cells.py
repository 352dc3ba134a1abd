"""Tables of cells: every metric of every condition, and the simulated ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from limla.analysis.encodings import quality_order
from limla.analysis.subjects import Subject, attack_order, subject_order
from limla.pages.shown import MAX_ROWS, Column, ShownTable, shown_table
from limla.reporting.headline import percent
from limla.reporting.sections import Measured, Point, Section, Slot, share_metric
from limla.results import Condition, MetricRow


def metric_cells(section: Section, rows: Sequence[MetricRow]) -> list[tuple[Subject, list[dict[str, Any]]]]:
    """The table of all metrics: per subject one line per condition, in reading order, up to the limit."""
    metrics: dict[Condition, dict[str, MetricRow]] = defaultdict(dict)
    for row in rows:
        metrics[row.condition][row.metric] = row
    groups: list[tuple[Subject, list[dict[str, Any]]]] = []
    left = MAX_ROWS
    for subject in section.subjects:
        lines = [
            _cell(section, slot, cell, metrics[cell])
            for slot in (
                (subject, variant, attack) for attack in section.attacks for variant in section.variants
            )
            for cell in section.cells.get(slot, ())
        ]
        groups.append((subject, lines[: max(left, 0)]))
        left -= len(lines)
    return [group for group in groups if group[1]]


def _cell(section: Section, slot: Slot, cell: Condition, found: dict[str, MetricRow]) -> dict[str, Any]:
    first = found.get("accuracy") or found["robust_accuracy"]
    shares = [first] + [
        found.get(name) for name in ("attack_success_rate", "precision_macro", "recall_macro", "f1_macro")
    ]
    aimed = found.get("targeted_success_rate")
    success = _text(shares[1]) + (f", targeted {_text(aimed)}" if aimed else "")
    return {
        "test": section.variant_label(slot[1]),
        "attack": slot[2].label,
        "seed": "–" if cell.seed < 0 else cell.seed,
        "num_samples": first.num_samples,
        "values": [_text(first), success, *map(_macro, shares[2:]), _loss(found["loss"])],
    }


def _text(row: MetricRow | None) -> str:
    if row is None:
        return "–"
    return percent(Point(row.value, row.ci_low, row.ci_high, row.num_samples, 1)).replace("%", "")


def _macro(row: MetricRow | None) -> str:
    """A score, and a dash where there is too little to estimate its interval from."""
    is_alone = row is not None and row.ci_low is None and not math.isnan(row.value)
    return f"{_text(row)} [–]" if is_alone else _text(row)


def _loss(row: MetricRow) -> str:
    if math.isnan(row.value):
        return "not finite"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    return f"{row.value:.2f}{interval}"


_MEASURED = (
    Column("n"),
    Column("Seeds"),
    Column("Accuracy or robust accuracy"),
    Column("Attack success rate"),
)


def simulated_cells(section: Section) -> ShownTable | None:
    """One line per subject, quality, attack and loader that re-encoded on the fly; None without any."""
    order = sorted(section.simulated, key=_simulated_order)
    lines = (
        (
            slot[0].label,
            "original" if slot[1][1] is None else f"{slot[1][0]} q{slot[1][1]}",
            slot[2].label,
            loader,
            *_measured(share_metric(slot[2]), section.simulated[slot, loader]),
        )
        for slot, loader in order
    )
    columns = ("Model and training", "Simulated quality", "Attack", "Simulated by", *_MEASURED)
    caption = "Simulated: originals re-encoded on the fly. Such rows have no file, so no bits per pixel."
    return shown_table(caption, columns, lines, "metrics.csv")


def _simulated_order(key: tuple[Slot, str]) -> tuple[Any, ...]:
    (subject, variant, attack), loader = key
    return (subject_order(subject), attack_order(attack), quality_order(variant), loader)


def _measured(metric: str, found: Measured) -> Iterable[str]:
    point = found[metric]
    success = found.get("attack_success_rate")
    return (
        str(point.num_samples),
        str(point.num_runs),
        percent(point).replace("%", ""),
        percent(success).replace("%", ""),
    )
