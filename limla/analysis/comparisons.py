"""Every paired comparison that a report shows, corrected together: one family per split of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import quality_rank
from limla.analysis.pairs import Evidence, Runs, Slot, common_runs, runs_by_seed
from limla.analysis.subjects import UNKNOWN, variant_text
from limla.metrics import flip_rate
from limla.statistics import PairedDifference, holm, paired_difference

Kind = Literal["quality", "training", "attack", "defence"]
KINDS: dict[Kind, str] = {
    "quality": "accuracy at a quality against the originals, or the codec's best quality without them",
    "training": "another training condition of a model against the one trained on the originals, at one test quality",
    "attack": "robust accuracy at a quality against the originals under the same attack: compress, then attack",
    "defence": "with a codec in front of the model against without, clean or under one attack",
}
"""What is compared with what: kind → `after` against `before`."""


@dataclass(frozen=True)
class Comparison:
    """Two slots on the same images.

    Attributes:
        kind: of `KINDS`.
        dataset, split: of the images.
        before, after: the two slots; they differ in one respect only.
        where: what both have in common, as text: "MobileNetV2 · originals, PGD-10, ε = 8/255".
        change: what differs, as text: "the originals → jpeg q10".
        value_before, value_after: share of correct images (accuracy, or robust accuracy) in [0, 1], mean over the runs.
        prediction_flip_rate: share of images predicted as another class, right or wrong (`limla.metrics.flip_rate`);
            that of `result` counts only those that are right on one side.
        result: the difference, after − before, with interval and test.
        p_holm: the p-value after Holm's correction over the family: all comparisons of this dataset and split.
        family_size: comparisons in that family.
    """

    kind: Kind
    dataset: str
    split: str
    before: Slot
    after: Slot
    where: str
    change: str
    value_before: float
    value_after: float
    prediction_flip_rate: float
    result: PairedDifference
    p_holm: float
    family_size: int

    @property
    def family(self) -> str:
        """What `p_holm` is corrected over: "300 comparisons on flowers, test"."""
        what = "comparison" if self.family_size == 1 else "comparisons"
        return f"{self.family_size} {what} on {self.dataset}, {self.split}"


def comparisons(evidence: Evidence) -> list[Comparison]:
    """All comparisons of one split of one dataset, by kind in the order of `KINDS`, then by slot.

    Slots without a run in common are not compared. Runs of one subject pair by checkpoint, those of two subjects by
    seed (`runs_by_seed`).
    """
    found: list[Comparison] = []
    for kind, before, after in _pairs(evidence.runs):
        runs = _paired_runs(kind, evidence.runs[before], evidence.runs[after])
        if runs is None:
            continue
        old, new = (side.correct() for side in runs)
        where, change = _texts(kind, before, after)
        found.append(
            Comparison(
                kind=kind,
                dataset=evidence.dataset,
                split=evidence.split,
                before=before,
                after=after,
                where=where,
                change=change,
                value_before=float(old.mean()),
                value_after=float(new.mean()),
                prediction_flip_rate=flip_rate(*(side.predictions() for side in runs)),
                result=paired_difference(old, new),
                p_holm=0.0,
                family_size=0,
            )
        )
    adjusted = holm([item.result.p_value for item in found])
    return [
        replace(item, p_holm=float(value), family_size=len(found))
        for item, value in zip(found, adjusted, strict=True)
    ]


def _pairs(slots: Iterable[Slot]) -> Iterator[tuple[Kind, Slot, Slot]]:
    """(kind, before, after) of every comparison, in order."""
    known = list(slots)
    bare = [slot for slot in known if slot.defence is None]
    pairs: dict[Kind, Iterator[tuple[Slot, Slot]]] = {
        "quality": _quality_pairs([slot for slot in bare if slot.attack.is_none]),
        "training": _training_pairs(bare),
        "attack": _quality_pairs([slot for slot in bare if not slot.attack.is_none]),
        "defence": _defence_pairs(known),
    }
    for kind, found in pairs.items():
        for before, after in found:
            yield kind, before, after


def _quality_pairs(slots: Sequence[Slot]) -> Iterator[tuple[Slot, Slot]]:
    """Each quality with the originals, or with its codec's best quality, under one attack."""
    for slot in slots:
        alike = [other for other in slots if replace(other, variant=slot.variant) == slot]
        codec = slot.variant[0]
        best = max(
            (other for other in alike if other.variant[1] is None or other.variant[0] == codec),
            key=lambda other: quality_rank(other.variant),
        )
        if best != slot:
            yield best, slot


def _training_pairs(slots: Sequence[Slot]) -> Iterator[tuple[Slot, Slot]]:
    """Each training condition with the clean-trained ones of its model, on one variant under one attack.

    There is one, unless checkpoints of one seed, or of none that is known, stand apart.
    """
    clean: dict[tuple[object, ...], list[Slot]] = defaultdict(list)
    for slot in slots:
        if slot.subject.is_clean_trained:
            clean[_training_key(slot)].append(slot)
    for slot in slots:
        if slot.subject.train_quality != UNKNOWN and not slot.subject.is_clean_trained:
            for before in clean.get(_training_key(slot), ()):
                yield before, slot


def _training_key(slot: Slot) -> tuple[object, ...]:
    subject = slot.subject
    return subject.model, subject.preprocessing, subject.decoder, slot.variant, slot.attack


def _defence_pairs(slots: Sequence[Slot]) -> Iterator[tuple[Slot, Slot]]:
    """Each defended slot with the same one left undefended."""
    known = set(slots)
    for slot in slots:
        before = replace(slot, defence=None, threat="")
        if slot.defence is not None and before in known:
            yield before, slot


def _paired_runs(kind: Kind, before: Runs, after: Runs) -> tuple[Runs, Runs] | None:
    return runs_by_seed(before, after) if kind == "training" else common_runs(before, after)


def _texts(kind: Kind, before: Slot, after: Slot) -> tuple[str, str]:
    """What both have in common, and what differs."""
    attack = [] if after.attack.is_none else [after.attack.label]
    if kind in ("quality", "attack"):
        change = f"{variant_text(before.variant)} → {variant_text(after.variant)}"
        return ", ".join([after.subject.label, *attack]), change
    on = f"on {variant_text(after.variant)}"
    if kind == "training":
        change = f"trained on {before.subject.trained_on} → {after.subject.trained_on}"
        return ", ".join([after.subject.tested_as, on, *attack]), change
    assert after.defence is not None
    threat = [f"{after.threat} attacker"] if after.threat else []
    return ", ".join([after.subject.label, on, *attack, *threat]), f"no defence → {after.defence.label}"


@dataclass(frozen=True)
class _Side:
    """What can differ between the two sides of a comparison, as columns."""

    train_codec: str
    train_quality: str
    train_method: str
    checkpoint_ids: str
    test_codec: str
    test_quality: int | None
    defence_codec: str
    defence_quality: str


def _side(slot: Slot) -> _Side:
    subject, defence = slot.subject, slot.defence
    return _Side(
        subject.train_codec,
        subject.train_quality,
        subject.train_method,
        "+".join(checkpoint for checkpoint, _ in subject.checkpoints),
        *slot.variant,
        defence.codec if defence else "",
        defence.quality if defence else "",
    )


_SHARED = ("model", "preprocessing", "decoder", "attack", "norm", "attack_settings", "threat")
COMPARISON_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string()),
        *columns_of(Comparison),
        *(pa.field(name, pa.string()) for name in _SHARED),
        pa.field("eps", pa.float64()),
        *columns_of(_Side, "before_"),
        *columns_of(_Side, "after_"),
        *columns_of(PairedDifference),
    ]
)


def comparison_table(rows: Sequence[Comparison]) -> pa.Table:
    """Comparisons as an Arrow table of `COMPARISON_SCHEMA`, one row each."""
    return table_of(map(_record, rows), COMPARISON_SCHEMA)


def _record(row: Comparison) -> dict[str, Any]:
    after = row.after
    return {
        "kind": row.kind,
        **values_of(row),
        "model": after.subject.model,
        "preprocessing": after.subject.preprocessing,
        "decoder": after.subject.decoder,
        "attack": after.attack.attack,
        "norm": after.attack.norm,
        "eps": after.attack.eps,
        "attack_settings": after.attack.attack_settings,
        "threat": after.threat,
        **values_of(_side(row.before), "before_"),
        **values_of(_side(after), "after_"),
        **values_of(row.result),
    }
