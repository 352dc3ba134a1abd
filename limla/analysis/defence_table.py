"""Compression as a defence: what a codec in front of the model costs clean images and saves attacked ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from limla.analysis.attacked import clean_slot, crop_side, num_bytes, share, targets, undefended_slot
from limla.analysis.comparisons import Comparison, comparisons
from limla.analysis.encodings import Variant
from limla.analysis.pairs import Evidence, Runs, Slot, common_runs
from limla.metrics import rate_bpp
from limla.plans import ATTACK_KNOWLEDGE
from limla.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Measured:
    """A number with its 95% interval; the ends are NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DefenceRow:
    """One defence of one subject on one test variant, against one attack under one threat model.

    Shares lie in [0, 1]. None: the cells were not evaluated, or nothing can be said.

    Attributes:
        dataset, split: of the images.
        subject: label of the model and its training.
        variant: (codec, quality) of the test images, before the defence.
        defence: label of codec and quality; defence_codec, defence_quality: as in `Condition`.
        attack: label, "no attack" in the row of a defence that met none; norm, eps: its ball.
        knowledge: what the attack uses of a model, as `limla.plans.ATTACK_KNOWLEDGE` says; "" where it does not.
        threat: what the attacker knows of the defence.
        num_images, num_seeds: of the defended cell.
        clean: accuracy without attack and defence.
        clean_defended: accuracy without attack, behind the defence.
        robust: accuracy under the attack without the defence.
        robust_defended: accuracy under the attack, behind the defence.
        success: attack success rate behind the defence; "before" is the defended clean cell.
        targeted_success: as `success`, of targeted attacks (`limla.metrics.targeted_success_rate`).
        difference: robust_defended − robust on the same images; of "no attack" clean_defended − clean.
        p_value: of no difference; p_holm: after Holm's correction over every comparison of the dataset and split
            (`limla.analysis.comparisons`).
        rate_bpp: mean bits per pixel of the defence's bitstreams, at the size of the model's input.
    """

    dataset: str
    split: str
    subject: str
    variant: Variant
    defence: str
    defence_codec: str
    defence_quality: str
    attack: str
    norm: str
    eps: float
    knowledge: str
    threat: str
    num_images: int
    num_seeds: int
    clean: Measured | None
    clean_defended: Measured | None
    robust: Measured | None
    robust_defended: Measured | None
    success: Measured | None
    targeted_success: Measured | None
    difference: Measured | None
    p_value: float | None
    p_holm: float | None
    rate_bpp: Measured | None


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
_MEASURED = tuple(item.name for item in fields(DefenceRow) if item.type == "Measured | None")


def _schema() -> pa.Schema:
    columns: list[pa.Field] = []
    for item in fields(DefenceRow):
        if item.name == "variant":
            columns += [pa.field("test_codec", pa.string()), pa.field("test_quality", pa.int32())]
        elif item.name in _MEASURED:
            columns += [pa.field(item.name + end, pa.float64()) for end in ("", "_low", "_high")]
        else:
            columns.append(pa.field(item.name, _TYPES[str(item.type)]))
    return pa.schema(columns)


DEFENCE_SCHEMA = _schema()


def defence_rows(evidence: Evidence, compared: Sequence[Comparison] | None = None) -> list[DefenceRow]:
    """A row for each defended attack, in the order of `evidence`; a defence that met none has one without.

    `compared` are the `comparisons` of `evidence`, where they are known already.
    """
    pairs = {(row.before, row.after): row for row in (comparisons(evidence) if compared is None else compared)}
    slots = [slot for slot in evidence.runs if slot.defence is not None]
    met = {clean_slot(slot) for slot in slots if not slot.attack.is_none}
    return [_row(evidence, slot, pairs) for slot in slots if not (slot.attack.is_none and slot in met)]


def defence_table(rows: Iterable[DefenceRow]) -> pa.Table:
    """DefenceRows as an Arrow table of `DEFENCE_SCHEMA`: three columns for each number with an interval."""
    records: list[dict[str, Any]] = []
    for row in rows:
        record: dict[str, Any] = {"test_codec": row.variant[0], "test_quality": row.variant[1]}
        for item in fields(DefenceRow):
            value = getattr(row, item.name)
            if item.name in _MEASURED:
                ends = (value.value, value.low, value.high) if value else (math.nan,) * 3
                for end, number in zip(("", "_low", "_high"), ends, strict=True):
                    record[item.name + end] = None if math.isnan(number) else number
            elif item.name != "variant":
                record[item.name] = value
        records.append(record)
    return pa.Table.from_pylist(records, schema=DEFENCE_SCHEMA)


def _row(evidence: Evidence, slot: Slot, pairs: Mapping[tuple[Slot, Slot], Comparison]) -> DefenceRow:
    runs, defence, attack = evidence.runs[slot], slot.defence, slot.attack
    assert defence is not None, slot
    clean_defended = evidence.runs.get(clean_slot(slot))
    undefended = evidence.runs.get(undefended_slot(slot))
    success, targeted = _successes(clean_defended, runs)
    pair = pairs.get((undefended_slot(slot), slot))
    return DefenceRow(
        dataset=evidence.dataset,
        split=evidence.split,
        subject=slot.subject.label,
        variant=slot.variant,
        defence=defence.label,
        defence_codec=defence.codec,
        defence_quality=defence.quality,
        attack=attack.label,
        norm=attack.norm,
        eps=attack.eps,
        knowledge=ATTACK_KNOWLEDGE.get(attack.attack, ""),
        threat=slot.threat,
        num_images=runs.num_images,
        num_seeds=len(runs.conditions),
        clean=_accuracy(evidence.runs.get(undefended_slot(clean_slot(slot)))),
        clean_defended=_accuracy(clean_defended),
        robust=None if attack.is_none else _accuracy(undefended),
        robust_defended=None if attack.is_none else _accuracy(runs),
        success=None if attack.is_none else success,
        targeted_success=targeted,
        difference=Measured(pair.result.difference, pair.result.low, pair.result.high) if pair else None,
        p_value=_known(pair.result.p_value) if pair else None,
        p_holm=_known(pair.p_holm) if pair else None,
        rate_bpp=_rate(runs, crop_side(slot.subject.preprocessing)),
    )


def _measured(value: float, interval: Interval) -> Measured | None:
    return None if math.isnan(value) else Measured(value, interval.low, interval.high)


def _accuracy(runs: Runs | None) -> Measured | None:
    if runs is None:
        return None
    correct = runs.correct()
    return _measured(*share(correct, np.ones_like(correct)))


def _successes(before: Runs | None, after: Runs) -> tuple[Measured | None, Measured | None]:
    """The success rates, untargeted and targeted, of the checkpoints that both have."""
    common = common_runs(before, after) if before else None
    if common is None:
        return None, None
    right, attacked = common[0].correct(), common[1]
    success = _measured(*share(~attacked.correct(), right))
    aims = targets(attacked)
    if aims is None:
        return success, None
    return success, _measured(*share(attacked.predictions() == aims, right & (attacked.labels() != aims)))


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _rate(runs: Runs, side: int | None) -> Measured | None:
    sizes = num_bytes(runs)
    if sizes is None or side is None:
        return None
    mean = rate_bpp(int(sizes.sum()), side, side) / sizes.size
    one_byte = rate_bpp(1, side, side)
    low, high = mean_interval(sizes.mean(axis=0) * one_byte)
    return Measured(mean, low, high)
