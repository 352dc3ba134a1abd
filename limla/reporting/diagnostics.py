"""Calibration, recall per class, flips, where the loss comes from: rows of `limla.analysis` as tables of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from limla.analysis.breakdown import Breakdown
from limla.analysis.calibration import NUM_BINS, CalibrationRow
from limla.analysis.classes import RecallRow
from limla.analysis.flips import FlipRow
from limla.analysis.subjects import variant_text
from limla.pages.shown import (
    Column,
    ShownTable,
    bounds,
    number,
    points,
    probability,
    share,
    shown_table,
)
from limla.reporting.evidence import images

CALIBRATION, RECALL, FLIPS, BREAKDOWN = (
    f"tables/{name}" for name in ("calibration", "recall", "flips", "breakdown")
)
"""Names of files beside the page, without their endings."""

ClassName = Callable[[int], str]


def calibration_tables(rows: Sequence[CalibrationRow]) -> ShownTable | None:
    """One line per condition."""
    caption = (
        f"Expected calibration error in {NUM_BINS} bins of equal width: how far confidence and accuracy lie apart, in "
        "percentage points; measured on few images it is too high, and may lie above its interval. Change: against "
        "the originals, freed of what few images add. Overconfident: mean confidence minus accuracy. Brackets: 95% "
        "intervals."
    )
    columns = (
        "Model and training",
        "Test",
        "Attack",
        "Defence",
        Column("Calibration error"),
        Column("Change"),
        Column("Overconfident by"),
        Column("n"),
    )
    lines = (
        (
            row.subject,
            variant_text(row.variant),
            row.attack,
            " against ".join(filter(None, (row.defence, row.threat))) or "–",
            number(100 * row.error, 1) + bounds(row.error_low, row.error_high),
            "–" if row.change is None else points(row.change) + bounds(row.change_low, row.change_high),
            points(row.overconfidence),
            images(row.num_images, row.num_seeds),
        )
        for row in rows
    )
    return shown_table(caption, columns, lines, f"{CALIBRATION}.csv")


def recall_tables(rows: Sequence[RecallRow], class_name: ClassName) -> ShownTable | None:
    """The classes whose recall changed most clearly, over all changes."""
    caption = (
        "Recall of each class (share of its images that are right) before and after, on the same images without an "
        "attack: at a quality against the originals, or behind a defence against without. The clearest changes first; "
        "p after Holm’s correction over the classes of one change."
    )
    columns = (
        "Model and training",
        "Change",
        "Class",
        Column("Before"),
        Column("After"),
        Column("Difference"),
        Column("p (Holm)"),
        Column("n"),
    )
    ordered = sorted(rows, key=lambda row: (_or_one(row.p_holm), row.difference))
    lines = (
        (
            row.subject,
            f"{variant_text(row.variant)}{f', behind {row.defence}' if row.defence else ''}",
            class_name(row.label),
            share(row.recall_before),
            share(row.recall),
            points(row.difference) + bounds(row.low, row.high),
            probability(row.p_holm),
            images(row.num_images, row.num_seeds),
        )
        for row in ordered
    )
    return shown_table(caption, columns, lines, f"{RECALL}.csv")


def _or_one(p_value: float | None) -> float:
    return 1.0 if p_value is None or math.isnan(p_value) else p_value


def flip_tables(rows: Sequence[FlipRow], class_name: ClassName) -> ShownTable | None:
    """The images whose prediction flips first, in the order of their rank."""
    caption = (
        "Images whose prediction becomes another class and stays so at every lower quality evaluated; those that flip "
        "at the highest quality first. “Seeds”: that agree, of all; prediction and confidence are of the first of them."
    )
    columns = (
        "Model and training",
        "Change",
        Column("Rank"),
        "Image",
        "Class",
        "Predicted before",
        "Flips at",
        "Predicted then",
        Column("Seeds"),
    )
    lines = (
        (
            row.subject,
            "falling quality" if row.change == "quality" else f"{row.codec} in front of the model",
            str(row.rank),
            row.key,
            class_name(row.label),
            f"{class_name(row.prediction_before)} {share(row.confidence_before, 0)}",
            f"{row.codec} q{row.quality}",
            f"{class_name(row.prediction)} {share(row.confidence, 0)}",
            f"{row.num_flipped} of {row.num_seeds}",
        )
        for row in rows
    )
    return shown_table(caption, columns, lines, f"{FLIPS}.csv")


def breakdown_tables(rows: Sequence[Breakdown]) -> ShownTable | None:
    """One line per step of each chain."""
    caption = (
        "Where the loss comes from: conditions that differ by one step each. Change: in percentage points against the "
        "step before, on the same images, with 95% intervals. Share: of the loss from the first step to the last; a "
        "step that gained has a negative one."
    )
    columns = (
        "Model and training",
        "Step",
        Column("Accuracy"),
        Column("Change"),
        Column("p"),
        Column("Share of the loss"),
        Column("n"),
    )
    return shown_table(caption, columns, _breakdown_lines(rows), f"{BREAKDOWN}.csv")


def _breakdown_lines(rows: Iterable[Breakdown]) -> Iterable[tuple[str, ...]]:
    for row in rows:
        for step in row.steps:
            change = step.change
            yield (
                row.label,
                step.text,
                share(step.accuracy),
                "–" if change is None else points(change.difference) + bounds(change.low, change.high),
                "–" if change is None else probability(change.p_value),
                share(step.share, 0),
                images(row.num_images, len(row.seeds)),
            )
