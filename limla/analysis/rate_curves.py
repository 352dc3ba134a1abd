"""Accuracy against measured bits per pixel, and how far two such curves lie apart (Bjøntegaard's deltas)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limla.analysis.attacked import share
from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import quality_rank
from limla.analysis.pairs import Evidence, Runs, Slot
from limla.analysis.subjects import UNKNOWN, Attack, Subject
from limla.metrics import Flags
from limla.statistics import BdInterval, BdResult, Interval, bd_interval, bd_metrics

REFERENCE = "jpeg"
"""The codec that the others are compared with, where it is there."""
Differing: TypeAlias = Literal["codec", "training", "model"]
_NOTHING = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class CurvePoint:
    """One quality of a rate curve.

    Attributes:
        quality: of the codec.
        rate_bpp: mean bits per pixel over the split's images.
        value: share of correct images (accuracy, or robust accuracy), mean over the runs, in [0, 1].
        low, high: its 95% interval.
        num_images, num_seeds: behind it.
    """

    quality: int
    rate_bpp: float
    value: float
    low: float
    high: float
    num_images: int
    num_seeds: int


@dataclass(frozen=True)
class RateCurve:
    """What a subject is right on, by the bits that a codec spends; images compressed first, then attacked.

    Attributes:
        dataset, split: of the images.
        subject, codec, attack: whose curve it is; no defence.
        points: from the worst quality to the best. The originals are no point: their bits are another codec's.
    """

    dataset: str
    split: str
    subject: Subject
    codec: str
    attack: Attack
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class CurveDifference:
    """Curve b against curve a, under one attack or none; they differ in codec, training condition or model.

    Attributes:
        differing: what they differ in.
        before, after: curves a and b.
        bd_rate_percent: mean difference of bits per pixel at equal accuracy, in %; below 0: b needs fewer. With its
            95% interval; None where refused.
        bd_accuracy: mean difference of accuracy at equal bits per pixel, a share of the images; above 0: b is better.
        overlap: the share of the accuracies, rate_overlap that of the (log) rates, that both curves reach, in [0, 1].
        num_images: that both curves share; num_seeds: the fewer of the two.
        reason: why a value or an interval is missing; "" where none is.
    """

    differing: Differing
    before: RateCurve
    after: RateCurve
    bd_rate_percent: float | None
    bd_rate_low: float | None
    bd_rate_high: float | None
    bd_accuracy: float | None
    bd_accuracy_low: float | None
    bd_accuracy_high: float | None
    overlap: float
    rate_overlap: float
    num_images: int
    num_seeds: int
    reason: str


_Key: TypeAlias = tuple[Subject, str, Attack]


def rate_curves(evidence: Evidence) -> list[RateCurve]:
    """Every curve of one split of one dataset: by subject, codec and attack; none without the shard folders."""
    return [
        RateCurve(evidence.dataset, evidence.split, subject, codec, attack, tuple(_points(evidence, slots)))
        for (subject, codec, attack), slots in _slots_with_rate(evidence).items()
    ]


def _slots_with_rate(evidence: Evidence) -> dict[_Key, list[Slot]]:
    """The undefended slots of each curve, from the worst quality to the best."""
    found: dict[_Key, list[Slot]] = defaultdict(list)
    for slot in evidence.runs:
        codec, quality = slot.variant
        if slot.defence is None and quality is not None and evidence.rate_bpp(slot.variant) is not None:
            found[slot.subject, codec, slot.attack].append(slot)
    return {key: sorted(slots, key=lambda slot: quality_rank(slot.variant)) for key, slots in found.items()}


def _points(evidence: Evidence, slots: Sequence[Slot]) -> Iterator[CurvePoint]:
    for slot in slots:
        runs, rate = evidence.runs[slot], evidence.rate_bpp(slot.variant)
        assert slot.variant[1] is not None
        assert rate is not None
        correct = runs.correct()
        value, interval = share(correct, np.ones_like(correct))
        yield CurvePoint(slot.variant[1], rate, value, *interval, runs.num_images, len(runs.seeds))


def curve_differences(evidence: Evidence, num_resamples: int = 1000) -> list[CurveDifference]:
    """Bjøntegaard's deltas between the curves of one split of one dataset, in the order of their pairs.

    Compared are, under one attack at a time: each codec of a subject with JPEG, or each two where JPEG is not there;
    each training condition of a model with the one trained on the originals, on one codec; each two models of one
    training condition, on one codec. Intervals are a
    bootstrap of `num_resamples` over the images, which both curves share, with the seeds' part where there are several;
    the mean rates are taken as known.

    A curve holds the checkpoints that were evaluated at all of its qualities: of two codecs those that both have, of
    two trainings or models those of the seeds that both have, where they share any. Curves that do not overlap enough,
    or have too few points, are refused with the reason (`limla.statistics.bd_metrics`).
    """
    slots = _slots_with_rate(evidence)
    curves = {(curve.subject, curve.codec, curve.attack): curve for curve in rate_curves(evidence)}
    found: list[CurveDifference] = []
    for differing, before, after in _pairs(list(curves)):
        sides = _sides(evidence, differing, slots[before], slots[after])
        found.append(_difference(differing, curves[before], curves[after], sides, num_resamples))
    return found


def _pairs(keys: Sequence[_Key]) -> Iterator[tuple[Differing, _Key, _Key]]:
    has_reference = {(subject, attack) for subject, codec, attack in keys if codec == REFERENCE}
    for number, after in enumerate(keys):
        for before in keys[:number]:
            differing = _differing(before, after)
            if differing is None:
                continue
            if differing == "codec" and (before[0], before[2]) in has_reference:
                if REFERENCE not in (before[1], after[1]):
                    continue
                if after[1] == REFERENCE:
                    yield differing, after, before
                    continue
            yield differing, before, after


def _differing(before: _Key, after: _Key) -> Differing | None:
    """What two curves differ in, where it is one thing and a comparison that is made."""
    (one, codec, attack), (other, other_codec, other_attack) = before, after
    if attack != other_attack:
        return None
    if codec != other_codec:
        return "codec" if one == other else None
    if one.decoder != other.decoder:
        return None
    if one.model == other.model:
        known = (
            UNKNOWN not in (one.train_quality, other.train_quality) and one.preprocessing == other.preprocessing
        )
        return "training" if known and one.is_clean_trained and not other.is_clean_trained else None
    training = (one.train_codec, one.train_quality, one.train_method)
    return "model" if training == (other.train_codec, other.train_quality, other.train_method) else None


_Side: TypeAlias = tuple[npt.NDArray[np.float64], Flags]


def _sides(
    evidence: Evidence, differing: Differing, before: Sequence[Slot], after: Sequence[Slot]
) -> list[_Side]:
    """(Q,) mean rates and (Q, S, N) correct of both curves, of the runs that are compared; S may be 0."""
    whole = [_whole(evidence, slots) for slots in (before, after)]
    # the same model on both sides, or at least the chance that comes with a seed
    names: list[dict[str, object]] = [
        {checkpoint: checkpoint if differing == "codec" else seed for checkpoint, seed in runs.items()}
        for runs in whole
    ]
    shared = set(names[0].values()) & set(names[1].values())
    has_all = not shared and differing != "codec"
    wanted = [{checkpoint for checkpoint, name in side.items() if has_all or name in shared} for side in names]
    return [
        (
            np.array([evidence.rate_bpp(slot.variant) for slot in slots], np.float64),
            np.stack([_of_checkpoints(evidence.runs[slot], checkpoints) for slot in slots]),
        )
        for slots, checkpoints in zip((before, after), wanted, strict=True)
    ]


def _whole(evidence: Evidence, slots: Sequence[Slot]) -> dict[str, int]:
    """Checkpoint → seed of the runs evaluated at every quality."""
    runs = [evidence.runs[slot] for slot in slots]
    common = set.intersection(*(_checkpoints(found) for found in runs))
    return {cell.checkpoint_id: cell.seed for cell in runs[0].conditions if cell.checkpoint_id in common}


def _checkpoints(runs: Runs) -> set[str]:
    return {cell.checkpoint_id for cell in runs.conditions}


def _of_checkpoints(runs: Runs, wanted: set[str]) -> Flags:
    is_wanted = [cell.checkpoint_id in wanted for cell in runs.conditions]
    return runs.correct()[is_wanted]


def _difference(
    differing: Differing,
    before: RateCurve,
    after: RateCurve,
    sides: Sequence[_Side],
    num_resamples: int,
) -> CurveDifference:
    (rates_a, correct_a), (rates_b, correct_b) = sides
    num_seeds = min(correct_a.shape[1], correct_b.shape[1])
    if num_seeds == 0:
        refused = BdResult(None, None, 0.0, 0.0, 0, 0, "no checkpoint was evaluated at every quality")
        found = BdInterval(refused, _NOTHING, _NOTHING, 1.0, 1.0)
    else:
        result = bd_metrics(rates_a, correct_a.mean(axis=(1, 2)), rates_b, correct_b.mean(axis=(1, 2)))
        found = BdInterval(result, _NOTHING, _NOTHING, 1.0, 1.0)
        if result.bd_rate_percent is not None or result.bd_score is not None:
            found = bd_interval(rates_a, correct_a, rates_b, correct_b, num_resamples=num_resamples)
    rate, accuracy = _ends(found.bd_rate_percent), _ends(found.bd_score)
    return CurveDifference(
        differing=differing,
        before=before,
        after=after,
        bd_rate_percent=found.result.bd_rate_percent,
        bd_rate_low=rate[0],
        bd_rate_high=rate[1],
        bd_accuracy=found.result.bd_score,
        bd_accuracy_low=accuracy[0],
        bd_accuracy_high=accuracy[1],
        overlap=found.result.overlap,
        rate_overlap=found.result.rate_overlap,
        num_images=correct_a.shape[2],
        num_seeds=num_seeds,
        reason=_reason(found),
    )


def _ends(interval: Interval) -> tuple[float, float] | tuple[None, None]:
    """Without any width it is no interval: resampled images that are all wrong, say, cannot vary."""
    return (interval.low, interval.high) if interval.high > interval.low else (None, None)


def _reason(found: BdInterval) -> str:
    """Why a value is missing, or the interval of one that there is."""
    result = found.result
    reasons = [result.reason.replace("BD-score", "BD-accuracy")] if result.reason else []
    for name, value, interval, refused in (
        ("BD-rate", result.bd_rate_percent, found.bd_rate_percent, found.refused_rate),
        ("BD-accuracy", result.bd_score, found.bd_score, found.refused_score),
    ):
        if value is None or _ends(interval) != (None, None):
            continue
        why = (
            f"{refused:.0%} of its resamples could not be compared"
            if refused
            else "its resamples are all alike"
        )
        reasons.append(f"no interval of the {name}: {why}")
    return "; ".join(reasons)


@dataclass(frozen=True)
class _Curve:
    """Whose curve it is, as columns."""

    subject: str
    model: str
    train_codec: str
    train_quality: str
    train_method: str
    preprocessing: str
    decoder: str
    codec: str


def _curve(curve: RateCurve) -> _Curve:
    subject = curve.subject
    return _Curve(
        subject.label,
        subject.model,
        subject.train_codec,
        subject.train_quality,
        subject.train_method,
        subject.preprocessing,
        subject.decoder,
        curve.codec,
    )


_TESTED = [
    pa.field("dataset", pa.string()),
    pa.field("split", pa.string()),
    pa.field("attack", pa.string()),
    pa.field("norm", pa.string()),
    pa.field("eps", pa.float64()),
    pa.field("attack_settings", pa.string()),
]
CURVE_SCHEMA = pa.schema([*_TESTED, *columns_of(_Curve), *columns_of(CurvePoint)])
CURVE_DIFFERENCE_SCHEMA = pa.schema(
    [
        *_TESTED,
        pa.field("differing", pa.string()),
        *columns_of(_Curve, "before_"),
        *columns_of(_Curve, "after_"),
        *columns_of(CurveDifference),
    ]
)


def _tested(curve: RateCurve) -> dict[str, Any]:
    attack = curve.attack
    values = (curve.dataset, curve.split, attack.attack, attack.norm, attack.eps, attack.attack_settings)
    return dict(zip([item.name for item in _TESTED], values, strict=True))


def curve_table(curves: Sequence[RateCurve]) -> pa.Table:
    """Rate curves as an Arrow table of `CURVE_SCHEMA`, one row per point."""
    return table_of(
        (
            {**_tested(curve), **values_of(_curve(curve)), **values_of(point)}
            for curve in curves
            for point in curve.points
        ),
        CURVE_SCHEMA,
    )


def curve_difference_table(rows: Sequence[CurveDifference]) -> pa.Table:
    """Differences of curves as an Arrow table of `CURVE_DIFFERENCE_SCHEMA`, one row each."""
    return table_of(
        (
            {
                **_tested(row.before),
                "differing": row.differing,
                **values_of(_curve(row.before), "before_"),
                **values_of(_curve(row.after), "after_"),
                **values_of(row),
            }
            for row in rows
        ),
        CURVE_DIFFERENCE_SCHEMA,
    )
