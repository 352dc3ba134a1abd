"""Conditions arranged for reading: what is a curve, what is a point on it, what is averaged.

A *subject* is what is tested: a model with its training condition. Checkpoints of one training condition with
different seeds are one subject, and its points are means over the seeds. A *section* holds everything measured on
one split of one dataset; results of several datasets or splits give several sections, never a mixture.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from limla.analysis.encodings import DataFolder, Variant, quality_order
from limla.analysis.subjects import (
    Attack,
    Subject,
    attack_order,
    attacks_of,
    of_one_version,
    one_per_run,
    subject_order,
    subjects_of,
)
from limla.results import Condition, MetricRow


@dataclass(frozen=True)
class Point:
    """One metric of one subject under one test condition.

    Attributes:
        value: the mean over the runs; NaN where it is not defined.
        low, high: from the lowest to the highest end of the runs' 95% intervals; None where there is none.
        num_samples: images of one run, the least of the runs.
        num_runs: checkpoints (seeds) the mean is over.
    """

    value: float
    low: float | None
    high: float | None
    num_samples: int
    num_runs: int


Slot = tuple[Subject, Variant, Attack]


@dataclass
class Section:
    """All results on one split of one dataset.

    Attributes:
        dataset, split: of the conditions.
        subjects, variants, attacks: what occurs, in reading order; attacks begin with the clean pass.
        conditions: all conditions reported: those of one version of the data.
        cells: the conditions behind each (subject, variant, attack), one per run.
        points: (slot, metric) → Point.
        data: the dataset's shard folders, when given.
        notes: what a reader must know before comparing.
    """

    dataset: str
    split: str
    subjects: list[Subject]
    variants: list[Variant]
    attacks: list[Attack]
    conditions: list[Condition]
    cells: dict[Slot, list[Condition]]
    points: dict[tuple[Slot, str], Point]
    data: DataFolder | None = None
    notes: list[str] = field(default_factory=list)

    def point(self, subject: Subject, variant: Variant, attack: Attack, metric: str = "") -> Point | None:
        """A point; by default the share of correct images (accuracy, or robust accuracy under an attack)."""
        metric = metric or ("accuracy" if attack.is_none else "robust_accuracy")
        return self.points.get(((subject, variant, attack), metric))

    def rate_bpp(self, variant: Variant) -> float | None:
        """Mean bits per pixel of a variant over the split's images; None when not known."""
        summary = self.data.summary(variant, self.split) if self.data else None
        return summary.mean_rate_bpp if summary else None

    def encoded_variants(self) -> list[Variant]:
        """The variants whose rate over the split is known, evaluated or not."""
        if self.data is None:
            return []
        return [
            variant
            for variant in sorted(self.data.encodings, key=quality_order)
            if self.data.summary(variant, self.split)
        ]

    def variant_label(self, variant: Variant) -> str:
        """ "q10", "original"; with the codec where there are several."""
        codec, quality = variant
        if quality is None:
            return "original"
        several = len({codec for codec, quality in self.variants if quality is not None}) > 1
        return f"{codec} q{quality}" if several else f"q{quality}"

    def short_label(self, subject: Subject) -> str:
        """The subject's label, without the model where the section has one model only."""
        _, separator, rest = subject.label.partition(" · ")
        return rest if separator and len({other.model for other in self.subjects}) == 1 else subject.label

    @property
    def clean(self) -> Attack | None:
        """The clean pass, when it was evaluated."""
        return self.attacks[0] if self.attacks and self.attacks[0].is_none else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the dataset; empty when no shard folder was given."""
        return self.data.first.class_names if self.data else ()

    def class_name(self, label: int) -> str:
        """The name of a class, or "class 3" when the names are not known."""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"


def sections(rows: Iterable[MetricRow], data: Mapping[str, DataFolder]) -> list[Section]:
    """Arrange MetricRows by dataset and split.

    Raises `DataError` when two different versions of a dataset meet under one name and `data` does not tell which
    one is meant.
    """
    by_condition: dict[Condition, dict[str, MetricRow]] = defaultdict(dict)
    for row in rows:
        by_condition[row.condition][row.metric] = row
    by_section: dict[tuple[str, str], list[Condition]] = defaultdict(list)
    for condition in by_condition:
        if condition.defence_codec or condition.simulation:
            continue  # shown by tables of their own
        by_section[condition.dataset, condition.split].append(condition)
    return [
        _section(dataset, split, conditions, by_condition, data.get(dataset))
        for (dataset, split), conditions in sorted(by_section.items())
    ]


def _section(
    dataset: str,
    split: str,
    conditions: list[Condition],
    rows: Mapping[Condition, dict[str, MetricRow]],
    data: DataFolder | None,
) -> Section:
    notes: list[str] = []
    conditions = of_one_version(conditions, split, data, notes)
    subject_of = subjects_of(conditions)
    attack_of = attacks_of(conditions)
    slots: dict[Slot, list[Condition]] = defaultdict(list)
    for condition in conditions:
        variant = (condition.test_codec, condition.test_quality)
        slots[subject_of[condition], variant, attack_of[condition]].append(condition)
    cells = {slot: one_per_run(found) for slot, found in slots.items()}
    num_left = sum(len(found) - len(cells[slot]) for slot, found in slots.items())
    if num_left:
        notes.append(
            f"{_count(num_left, 'cell differs', 'cells differ')} from another only in batch size or precision. "
            "Figures show the float32 cell of the largest batch; metrics.csv lists every cell."
        )
    if len({len(found) for slot, found in cells.items() if len(slot[0].checkpoints) > 1}) > 1:
        notes.append("Not every seed was evaluated under every condition; n seeds is given with each mean.")
    metrics = {(slot, name) for slot, found in cells.items() for cell in found for name in rows[cell]}
    points = {
        (slot, name): _point([rows[cell][name] for cell in cells[slot] if name in rows[cell]])
        for slot, name in metrics
    }
    return Section(
        dataset=dataset,
        split=split,
        subjects=sorted(set(subject_of.values()), key=subject_order),
        variants=sorted({slot[1] for slot in cells}, key=quality_order),
        attacks=sorted(set(attack_of.values()), key=attack_order),
        conditions=conditions,
        cells=cells,
        points=points,
        data=data,
        notes=notes,
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _point(rows: Sequence[MetricRow]) -> Point:
    lows = [row.ci_low for row in rows if row.ci_low is not None]
    highs = [row.ci_high for row in rows if row.ci_high is not None]
    return Point(
        value=math.fsum(row.value for row in rows) / len(rows),
        low=min(lows) if len(lows) == len(rows) else None,
        high=max(highs) if len(highs) == len(rows) else None,
        num_samples=min(row.num_samples for row in rows),
        num_runs=len(rows),
    )
