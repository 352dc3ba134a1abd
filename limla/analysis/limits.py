"""The limit: the lowest quality of a codec at which a model still loses less accuracy than a margin."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import Variant, quality_rank
from limla.analysis.pairs import Evidence, Runs, Slot, common_runs
from limla.analysis.subjects import UNKNOWN, Subject
from limla.errors import SettingsError
from limla.manifest import SOURCE
from limla.statistics import NonInferiority, non_inferiority

Verdict = Literal["found", "exceeds", "cannot tell", "no originals"]
DEFAULT_MARGIN = 0.01


@dataclass(frozen=True)
class QualityLoss:
    """What one quality costs a subject.

    Attributes:
        quality: of the codec.
        rate_bpp, mean_num_bytes: means over the split's images; None where the shard folders are not known.
        source_accuracy: on the originals, of the runs that were evaluated at both, in [0, 1].
        result: loss of accuracy against the originals, and the verdict on it.
    """

    quality: int
    rate_bpp: float | None
    mean_num_bytes: float | None
    source_accuracy: float
    result: NonInferiority


@dataclass(frozen=True)
class Limit:
    """How far one codec can go with one subject.

    Attributes:
        dataset, split: of the images.
        subject: the model with its training condition.
        codec: of the qualities tested.
        margin: the loss of accuracy that is accepted, above 0, below 1.
        verdict: "found"; "exceeds": the best quality tested already loses more than the margin; "cannot tell": whether
            it does is beyond these images; "no originals": they were not evaluated with the same model.
        limit: the lowest quality within the margin of which every better tested quality is within it too; None without.
        beyond: the next quality tested, which is not within: it exceeds the margin, or cannot be told; None when every
            tested quality is within.
        tested: all qualities, the best first. Those after `beyond` are measured, but decide nothing.
        source_accuracy: on the originals, in [0, 1], mean over the runs that the limit (without one, `beyond`) is
            compared with; None where there are none.
        source_rate_bpp, source_mean_num_bytes: of the originals, as they came; None where not known.
    """

    dataset: str
    split: str
    subject: Subject
    codec: str
    margin: float
    verdict: Verdict
    limit: QualityLoss | None
    beyond: QualityLoss | None
    tested: tuple[QualityLoss, ...]
    source_accuracy: float | None
    source_rate_bpp: float | None
    source_mean_num_bytes: float | None

    @property
    def saved(self) -> float | None:
        """The share of the originals' bytes that storing at the limit saves; below 0 where it takes more."""
        if self.limit is None or self.limit.mean_num_bytes is None or not self.source_mean_num_bytes:
            return None
        return 1 - self.limit.mean_num_bytes / self.source_mean_num_bytes


def parse_points(text: str) -> float:
    """A margin as a share of the images from text in percentage points: "1" is 0.01, "0.5" is 0.005.

    Raises `SettingsError` for anything but a number above 0 and below 100.
    """
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 < points < 100:
        raise SettingsError(
            f"margin '{text}' is not a number of percentage points: choose above 0 and below 100, for example 1 or 0.5"
        )
    return points / 100


def limits(evidence: Evidence, margin: float = DEFAULT_MARGIN) -> list[Limit]:
    """The limit of every subject and codec, on clean images without a defence.

    Qualities are judged from the best down to the first that is not within the margin, each by
    `limla.statistics.non_inferiority`. Judging in an order fixed beforehand and stopping at the first failure keeps the
    chance that any quality is called within wrongly at that of a single one, without a correction (Maurer, Hothorn &
    Lehmacher, 1995; Westfall & Krishen, J. Statistical Planning and Inference 99, 2001).

    Raises `SettingsError` for a margin that is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise SettingsError(
            f"margin {margin:g} is no share of the images: choose above 0, below 1; 0.01 is one point"
        )
    by_codec: dict[tuple[Subject, str], list[Slot]] = defaultdict(list)
    originals: dict[Subject, Runs] = {}
    for slot, runs in evidence.runs.items():
        if slot.is_plain and slot.variant[1] is None:
            originals[slot.subject] = runs
        elif slot.is_plain:
            by_codec[slot.subject, slot.variant[0]].append(slot)
    return [
        _limit(evidence, subject, codec, slots, originals.get(subject), margin)
        for (subject, codec), slots in by_codec.items()
    ]


def _limit(
    evidence: Evidence,
    subject: Subject,
    codec: str,
    slots: Sequence[Slot],
    originals: Runs | None,
    margin: float,
) -> Limit:
    tested: list[QualityLoss] = []
    for slot in sorted(slots, key=lambda slot: quality_rank(slot.variant), reverse=True):
        pair = common_runs(originals, evidence.runs[slot]) if originals else None
        if pair is not None:
            before, after = (runs.correct() for runs in pair)
            result = non_inferiority(before, after, margin)
            assert slot.variant[1] is not None
            cost = _cost(evidence, slot.variant)
            tested.append(QualityLoss(slot.variant[1], *cost, float(before.mean()), result))
    within = 0
    while within < len(tested) and tested[within].result.verdict == "within":
        within += 1
    limit = tested[within - 1] if within else None
    beyond = tested[within] if within < len(tested) else None
    shown = limit or beyond
    verdict: Verdict = "no originals"
    if limit is not None:
        verdict = "found"
    elif beyond is not None:
        verdict = "exceeds" if beyond.result.verdict == "exceeds" else "cannot tell"
    return Limit(
        evidence.dataset,
        evidence.split,
        subject,
        codec,
        margin,
        verdict,
        limit,
        beyond,
        tuple(tested),
        shown.source_accuracy if shown else None,
        *_cost(evidence, (SOURCE, None)),
    )


def _cost(evidence: Evidence, variant: Variant) -> tuple[float | None, float | None]:
    """Mean bits per pixel and bytes of a variant over the split's images; None where not known."""
    summary = evidence.data.summary(variant, evidence.split) if evidence.data else None
    return (summary.mean_rate_bpp, summary.mean_num_bytes) if summary else (None, None)


@dataclass(frozen=True)
class _Columns:
    """One line of the table: a limit, its cost, and what lies beyond."""

    dataset: str
    split: str
    subject: str
    model: str
    train_codec: str
    train_quality: str
    train_method: str
    preprocessing: str
    decoder: str
    codec: str
    margin: float
    verdict: str
    quality: int | None
    rate_bpp: float | None
    mean_num_bytes: float | None
    source_accuracy: float | None
    source_rate_bpp: float | None
    source_mean_num_bytes: float | None
    saved: float | None
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    num_images: int | None
    num_seeds: int | None
    beyond_quality: int | None
    beyond_verdict: str
    beyond_loss: float | None
    beyond_loss_low: float | None
    beyond_loss_high: float | None
    images_needed: int | None
    num_tested: int
    sentence: str


LIMIT_SCHEMA = pa.schema(columns_of(_Columns))


def limit_table(rows: Sequence[Limit]) -> pa.Table:
    """Limits as an Arrow table of `LIMIT_SCHEMA`, one row each."""
    return table_of((values_of(_line(row)) for row in rows), LIMIT_SCHEMA)


def _line(row: Limit) -> _Columns:
    subject, limit, beyond = row.subject, row.limit, row.beyond
    shown = limit or beyond
    return _Columns(
        dataset=row.dataset,
        split=row.split,
        subject=subject.label,
        model=subject.model,
        train_codec=subject.train_codec,
        train_quality=subject.train_quality,
        train_method=subject.train_method,
        preprocessing=subject.preprocessing,
        decoder=subject.decoder,
        codec=row.codec,
        margin=row.margin,
        verdict=row.verdict,
        quality=limit.quality if limit else None,
        rate_bpp=limit.rate_bpp if limit else None,
        mean_num_bytes=limit.mean_num_bytes if limit else None,
        source_accuracy=row.source_accuracy,
        source_rate_bpp=row.source_rate_bpp,
        source_mean_num_bytes=row.source_mean_num_bytes,
        saved=row.saved,
        loss=limit.result.loss if limit else None,
        loss_low=limit.result.low if limit else None,
        loss_high=limit.result.high if limit else None,
        num_images=shown.result.comparison.num_images if shown else None,
        num_seeds=shown.result.comparison.num_seeds if shown else None,
        beyond_quality=beyond.quality if beyond else None,
        beyond_verdict=beyond.result.verdict if beyond else "",
        beyond_loss=beyond.result.loss if beyond else None,
        beyond_loss_low=beyond.result.low if beyond else None,
        beyond_loss_high=beyond.result.high if beyond else None,
        images_needed=beyond.result.images_needed if beyond else None,
        num_tested=len(row.tested),
        sentence=sentence(row),
    )


def sentence(row: Limit) -> str:
    """One plain sentence: what to store at, what it costs and saves, and why not lower."""
    who = _who(row.subject)
    if row.source_accuracy is None:
        return (
            f"{who}: no advice on {row.codec}, as the originals were not evaluated with it: run 'limla evaluate' "
            "with source among its qualities."
        )
    less = f"less than {_margin(row.margin)} of its {row.source_accuracy:.1%} accuracy on the originals"
    if row.limit is not None:
        rest = _beyond(row, row.beyond) if row.beyond else "no lower quality was tested"
        return (
            f"{who}: store {row.codec} at quality {row.limit.quality} or better{_price(row, row.limit)}: it loses "
            f"{less} ({_measured(row, row.limit)}, on {_images(row, row.limit)}); {rest}."
        )
    assert row.beyond is not None
    best, result = row.beyond, row.beyond.result
    verdicts = {tested.result.verdict for tested in row.tested}
    if row.verdict == "exceeds" and verdicts == {"exceeds"}:
        return (
            f"{who}: no tested quality of {row.codec} loses {less}: the best, {best.quality}, loses more "
            f"({_measured(row, best)}, on {_images(row, best)})."
        )
    if row.verdict == "exceeds":
        return (
            f"{who}: no advice on {row.codec}, as the best tested quality, {best.quality}, does not lose {less} but "
            f"more ({_measured(row, best)}, on {_images(row, best)}); lower ones are then not judged."
        )
    if "within" in verdicts:
        return (
            f"{who}: whether the best tested quality of {row.codec}, {best.quality}, loses {less} cannot be told with "
            f"{_images(row, best)}: {_needed(result)} ({_measured(row, best)}); lower ones are then not judged."
        )
    return (
        f"{who}: whether any tested quality of {row.codec} loses {less} cannot be told with {_images(row, best)}: at "
        f"the best tested, quality {best.quality}, the model shows {_measured(row, best)}; {_needed(result)}."
    )


def _who(subject: Subject) -> str:
    if subject.train_quality == UNKNOWN:
        return subject.who
    return f"{subject.who} trained on {'the ' if subject.train_quality == SOURCE else ''}{subject.training}"


def _beyond(row: Limit, beyond: QualityLoss) -> str:
    if beyond.result.verdict == "exceeds":
        return f"quality {beyond.quality} loses more ({_measured(row, beyond)})"
    return f"for quality {beyond.quality} they cannot tell: {_needed(beyond.result)} ({_measured(row, beyond)})"


def _needed(result: NonInferiority) -> str:
    """What it would take to tell."""
    number = result.images_needed
    if number is not None and result.loss > result.margin:
        return f"about {_about(number)} images would likely show that it loses more"
    if number is not None:
        return f"you need about {_about(number)} images"
    if math.isclose(result.loss, result.margin):
        return "more images would hardly help, as the loss measured is the margin itself"
    return "more images would hardly help, as the seeds differ too much: train more"


def _about(number: int) -> str:
    """A number of images, rounded up to two digits: "2,400"."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return f"{-(-number // unit) * unit:,}"


def _price(row: Limit, at: QualityLoss) -> str:
    """ " (1.04 bits per pixel, 71% smaller than the originals)"; "" where it is not known."""
    parts = [] if at.rate_bpp is None else [f"{at.rate_bpp:.2f} bits per pixel"]
    if row.saved is not None:
        parts.append(f"{abs(row.saved):.0%} {'smaller' if row.saved >= 0 else 'larger'} than the originals")
    return f" ({', '.join(parts)})" if parts else ""


def _images(row: Limit, at: QualityLoss) -> str:
    found = at.result.comparison
    images = f"{found.num_images:,} {row.split} image{'s' if found.num_images > 1 else ''}"
    return f"{images} × {found.num_seeds} seeds" if found.num_seeds > 1 else images


def _margin(margin: float) -> str:
    points = f"{100 * margin:.6g}"
    return f"{points} point{'' if points == '1' else 's'}"


def _measured(row: Limit, at: QualityLoss) -> str:
    """ "0.2 points lost, 95% interval 0.4 gained to 0.8 lost"; "2.5 points lost, 95% interval 1.3 to 3.7"."""
    result = at.result
    values = (result.loss, result.low, result.high)
    # one decimal, or as many as show on which side of the margin each lies
    decimals = next((n for n in (1, 2, 3) if all(_keeps_side(value, row.margin, n) for value in values)), 4)
    loss, low, high = (f"{abs(100 * value):.{decimals}f}" for value in values)
    text = "no change" if result.loss == 0 else f"{loss} points {'lost' if result.loss > 0 else 'gained'}"
    if math.isnan(result.low) or math.isnan(result.high):
        return text
    if result.low * result.high <= 0:
        interval = f"{low} gained to {high} lost"
    else:
        interval = f"{low} to {high}" if result.low > 0 else f"{high} to {low}"
    return f"{text}, {result.comparison.confidence:.0%} interval {interval}"


def _keeps_side(loss: float, margin: float, decimals: int) -> bool:
    """Whether a loss, rounded in points, lies on its side of the margin."""
    return (round(100 * loss, decimals) < 100 * margin) == (loss < margin)
