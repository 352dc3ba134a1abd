"""The report's heat maps: what each shows of a section's points. How they are drawn is `limla.pages.svg`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from limla.analysis.subjects import Attack
from limla.pages.svg import heat_map, shorten
from limla.reporting.sections import Point, Section

_MOST_COLUMNS = 20
"""More would be too small to read at the page's width."""


def matrix(section: Section, attack: Attack, name: str) -> str:
    """Train × test heat map of the share of correct images in percent, with its numbers.

    Test qualities that no model met under this attack are left out; many of them stand below each other.
    """
    values = np.array(
        [
            [_percent(section.point(subject, variant, attack)) for variant in section.variants]
            for subject in section.subjects
        ]
    )
    met: npt.NDArray[np.bool_] = np.asarray(~np.isnan(values).all(axis=0))
    values = values[:, met]
    trained = [shorten(section.short_label(subject), 36) for subject in section.subjects]
    tested = [
        section.variant_label(variant)
        for variant, is_met in zip(section.variants, met.tolist(), strict=True)
        if is_met
    ]
    what = "Accuracy" if attack.is_none else f"Robust accuracy under {attack.label}"
    upright = len(tested) > max(_MOST_COLUMNS, len(trained))
    return heat_map(
        values.T if upright else values,
        rows=tested if upright else trained,
        columns=trained if upright else tested,
        axis_labels=("trained on", "test quality") if upright else ("test quality", "trained on"),
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
