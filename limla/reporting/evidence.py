"""The rows of `limla.analysis` as tables of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from limla.analysis.comparisons import KINDS, Comparison, Kind
from limla.analysis.defence_table import DefenceRow, Measured
from limla.analysis.limits import Limit, QualityLoss
from limla.analysis.masking import CHECKS, MaskingCheck
from limla.analysis.rate_curves import CurveDifference
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
    signless,
)
from limla.plans import THREATS

COMPARISONS, LIMITS, RATE_CURVES, CURVE_DIFFERENCES, DEFENCES, MASKING = (
    f"tables/{name}"
    for name in ("comparisons", "limits", "rate_curves", "curve_differences", "defences", "masking")
)
"""Names of files beside the page, without their endings."""


def comparison_tables(rows: Sequence[Comparison], *kinds: Kind) -> list[ShownTable]:
    """A table for each kind that occurs."""
    found: list[ShownTable] = []
    for kind in kinds:
        of_kind = [row for row in rows if row.kind == kind]
        if not of_kind:
            continue
        caption = (
            f"{KINDS[kind][:1].upper()}{KINDS[kind][1:]}. Shares of correct images; differences in percentage "
            f"points on the same images, with 95% intervals; Holm’s correction over {of_kind[0].family}. “Flipped”: "
            "images right in one of the two only. “Detectable”: the smallest difference that these images would "
            "show with 80% power; “none”: of no size."
        )
        columns = (
            "What both share",
            "Before → after",
            Column("Before"),
            Column("After"),
            Column("Difference"),
            Column("p"),
            "Test",
            Column("p (Holm)"),
            Column("Flipped"),
            Column("Detectable"),
            Column("n"),
        )
        table = shown_table(caption, columns, map(_comparison, of_kind), f"{COMPARISONS}.csv")
        found += [table] if table else []
    return found


def _comparison(row: Comparison) -> tuple[str, ...]:
    result = row.result
    return (
        row.where,
        row.change,
        share(row.value_before),
        share(row.value_after),
        points(result.difference) + bounds(result.low, result.high),
        probability(result.p_value),
        result.test,
        probability(row.p_holm),
        share(result.flip_rate),
        "none" if math.isnan(result.detectable) else f"{100 * result.detectable:.1f}",
        images(result.num_images, result.num_seeds),
    )


def images(num_images: int, num_seeds: int) -> str:
    """ "120", "120 × 3 seeds"."""
    return f"{num_images:,}" + (f" × {num_seeds} seeds" if num_seeds > 1 else "")


def points_text(margin: float) -> str:
    """ "1 point", "0.5 points"."""
    text = f"{100 * margin:.6g}"
    return f"{text} point{'' if text == '1' else 's'}"


_VERDICTS = {"within": "yes", "exceeds": "no", "cannot tell": "cannot tell"}


def limit_tables(rows: Sequence[Limit]) -> ShownTable | None:
    """One line per subject, codec and quality tested, the best quality first."""
    if not rows:
        return None
    margin = points_text(rows[0].margin)
    caption = (
        f"Loss of accuracy against the originals, in percentage points with 95% intervals. Within: the whole interval "
        f"lies below {margin} (non-inferiority, decided from the best quality down to the first that is not within)."
    )
    columns = (
        "Model and training",
        "Codec",
        Column("Quality"),
        Column("Rate (bpp)"),
        Column("Saved"),
        Column("Loss"),
        f"Within {margin}",
        Column("n"),
        Column("Images needed"),
    )
    return shown_table(caption, columns, _limit_lines(rows), f"{LIMITS}.csv")


def _limit_lines(rows: Iterable[Limit]) -> Iterable[tuple[str, ...]]:
    for row in rows:
        for tested in row.tested:
            result = tested.result
            is_limit = row.limit is not None and tested.quality == row.limit.quality
            needed = result.images_needed
            yield (
                row.subject.label,
                row.codec,
                str(tested.quality),
                number(tested.rate_bpp, 3),
                _saved(row, tested),
                points(result.loss) + bounds(result.low, result.high),
                _VERDICTS[result.verdict] + (" – the limit" if is_limit else ""),
                images(result.comparison.num_images, result.comparison.num_seeds),
                "–" if needed is None else f"{needed:,}",
            )


def _saved(row: Limit, tested: QualityLoss) -> str:
    if tested.mean_num_bytes is None or not row.source_mean_num_bytes:
        return "–"
    return f"{signless(100 * (1 - tested.mean_num_bytes / row.source_mean_num_bytes), 0)}%"


def curve_difference_table(rows: Sequence[CurveDifference]) -> ShownTable | None:
    """BD-rate and BD-accuracy of each pair of curves, or why there is none."""
    caption = (
        "Bjøntegaard’s deltas between two curves of accuracy against bits per pixel. BD-rate: bits at equal accuracy, "
        "below 0 the second needs fewer. BD-accuracy: percentage points at equal bits, above 0 the second is better. "
        "Brackets: 95% intervals of a bootstrap over the images. Overlap: share of the accuracies that both reach."
    )
    columns = (
        "First",
        "Second",
        "Attack",
        Column("BD-rate (%)"),
        Column("BD-accuracy (points)"),
        Column("Overlap"),
        Column("n"),
        "Remark",
    )
    lines = (
        (
            f"{row.before.subject.label}, {row.before.codec}",
            f"{row.after.subject.label}, {row.after.codec}",
            row.before.attack.label,
            _bd_rate(row),
            points(row.bd_accuracy) + bounds(row.bd_accuracy_low, row.bd_accuracy_high),
            share(row.overlap, 0),
            images(row.num_images, row.num_seeds),
            row.reason,
        )
        for row in rows
    )
    return shown_table(caption, columns, lines, f"{CURVE_DIFFERENCES}.csv")


def _bd_rate(row: CurveDifference) -> str:
    if row.bd_rate_percent is None:
        return "–"
    low, high = row.bd_rate_low, row.bd_rate_high
    ends = (None, None) if low is None or high is None else (low / 100, high / 100)
    return points(row.bd_rate_percent / 100) + bounds(*ends)


def defence_tables(rows: Sequence[DefenceRow]) -> ShownTable | None:
    """One line per subject, test quality, defence, attack and threat model."""
    threats = [name for name in THREATS if any(row.threat == name for row in rows)]
    told = " ".join(f"{name}: {THREATS[name]}." for name in threats)
    caption = (
        "Images go through the defence’s codec before the model. Shares of correct images in percent; the gain in "
        "percentage points on the same images (under the attack; of “no attack” the clean accuracy), p after Holm’s "
        "correction over every comparison of this dataset and split; success: attacks that flip what was right behind "
        f"the defence. {told}"
    )
    columns = (
        "Model and training",
        "Test",
        "Defence",
        "Attack",
        "Threat model",
        Column("Clean"),
        Column("Clean, defended"),
        Column("Robust"),
        Column("Robust, defended"),
        Column("Gain"),
        Column("p (Holm)"),
        Column("Success"),
        Column("Rate (bpp)"),
        Column("n"),
    )
    lines = (
        (
            row.subject,
            variant_text(row.variant),
            row.defence,
            row.attack,
            row.threat or "–",
            measured(row.clean),
            measured(row.clean_defended),
            measured(row.robust),
            measured(row.robust_defended),
            gain(row.difference),
            probability(row.p_holm),
            measured(row.success),
            "–" if row.rate_bpp is None else number(row.rate_bpp.value, 3),
            images(row.num_images, row.num_seeds),
        )
        for row in rows
    )
    return shown_table(caption, columns, lines, f"{DEFENCES}.csv")


def measured(value: Measured | None) -> str:
    """ "50.0 [41.2, 58.8]", in percent; a dash for None."""
    return "–" if value is None else f"{signless(100 * value.value, 1)}{bounds(value.low, value.high)}"


def gain(value: Measured | None) -> str:
    """ "+46.7 [37.5, 55.8]", in percentage points; a dash for None."""
    return "–" if value is None else points(value.value) + bounds(value.low, value.high)


def masking_tables(rows: Sequence[MaskingCheck]) -> ShownTable | None:
    """Breached checks first, then those that hold, then those that were not tested."""
    caption = (
        "Signs that a model looks robust only because its gradients mislead the attacker. A check is breached where "
        "the whole 95% interval of a paired comparison lies on the wrong side; “holds” means no evidence against it."
    )
    order = ("breached", "holds", "not tested")
    lines = (
        (row.verdict, CHECKS[row.name], row.sentence)
        for row in sorted(rows, key=lambda row: order.index(row.verdict))
    )
    return shown_table(caption, ("Verdict", "Expected", "Found"), lines, f"{MASKING}.csv")
