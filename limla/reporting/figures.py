"""The report's heat maps: what each shows of a section's points. How they are drawn is `limla.pages.svg`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from limla.analysis.subjects import Attack
from limla.pages.svg import heat_map, shorten
from limla.reporting.sections import Point, Section


def matrix(section: Section, attack: Attack, name: str) -> str:
    """Train × test heat map of the share of correct images in percent, with its numbers."""
    values = [
        [_percent(section.point(subject, variant, attack)) for variant in section.variants]
        for subject in section.subjects
    ]
    what = "Accuracy" if attack.is_none else f"Robust accuracy under {attack.label}"
    return heat_map(
        np.array(values),
        rows=[shorten(section.short_label(subject), 36) for subject in section.subjects],
        columns=[section.variant_label(variant) for variant in section.variants],
        axis_labels=("test quality", "trained on"),
        name=name,
        label=f"{what} in percent, trained condition by test quality",
    )


def _percent(point: Point | None) -> float:
    return math.nan if point is None else 100 * point.value


def class_drops(
    classes: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], name: str
) -> str:
    """Recall of each class under the reference (first column, percent) and its change under each other column.

    `values` holds (classes × columns) percentages: the recall, then the drops in percentage points.
    """
    return heat_map(
        np.array(values, dtype=np.float64),
        rows=[shorten(text) for text in classes],
        columns=columns,
        axis_labels=("test quality", ""),
        name=name,
        label="Recall of each class at the best quality in percent, and its change at the others in points",
        diverging_from=1,
    )
