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
from typing import TypeAlias

from limla.analysis import pairs
from limla.analysis.encodings import DataFolder, Variant, quality_order
from limla.analysis.pairs import Defence, Evidence
from limla.analysis.subjects import (
    Attack,
    Subject,
    attack_order,
    attacks_of,
    one_per_run,
    subject_order,
    subjects_of,
)
from limla.errors import DataError
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


Slot: TypeAlias = tuple[Subject, Variant, Attack]
"""What a point of an undefended model stands for."""
Measured: TypeAlias = Mapping[str, Point]
"""Metric name → point."""


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
        evidence: the section's predictions, aligned image by image; None where every result is simulated.
        defended: metrics of cells with a codec before the model; none of these is in `cells` and `points`.
        simulated: (slot, loader) → metrics of originals re-encoded on the fly; in neither of the others.
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
    evidence: Evidence | None = None
    defended: dict[pairs.Slot, Measured] = field(default_factory=dict)
    simulated: dict[tuple[Slot, str], Measured] = field(default_factory=dict)

    def point(self, subject: Subject, variant: Variant, attack: Attack, metric: str = "") -> Point | None:
        """A point; by default the share of correct images (accuracy, or robust accuracy under an attack)."""
        return self.points.get(((subject, variant, attack), metric or share_metric(attack)))

    def behind(
        self, subject: Subject, variant: Variant, attack: Attack, defence: Defence, threat: str
    ) -> Point | None:
        """The share of correct images behind a defence; the clean pass has no threat model."""
        threat = "" if attack.is_none else threat
        found = self.defended.get(pairs.Slot(subject, variant, attack, defence, threat), {})
        return found.get(share_metric(attack))

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


def sections(
    rows: Iterable[MetricRow], evidence: Sequence[Evidence], data: Mapping[str, DataFolder]
) -> list[Section]:
    """Arrange MetricRows by dataset and split.

    Args:
        rows: of all conditions.
        evidence: of `limla.analysis.pairs.collect`, about the same conditions.
        data: dataset name → shard folders.

    Raises `DataError` when simulated results of two versions of a dataset meet.
    """
    measured: dict[Condition, dict[str, MetricRow]] = defaultdict(dict)
    for row in rows:
        measured[row.condition][row.metric] = row
    conditions: dict[tuple[str, str], list[Condition]] = defaultdict(list)
    for condition in measured:
        conditions[condition.dataset, condition.split].append(condition)
    aligned = {(item.dataset, item.split): item for item in evidence}
    return [
        _section(name, found, measured, aligned.get(name), data.get(name[0]))
        for name, found in sorted(conditions.items())
    ]


def share_metric(attack: Attack) -> str:
    """The name of the share of correct images: accuracy, or robust accuracy under an attack."""
    return "accuracy" if attack.is_none else "robust_accuracy"


def _section(
    name: tuple[str, str],
    conditions: Sequence[Condition],
    rows: Mapping[Condition, dict[str, MetricRow]],
    evidence: Evidence | None,
    data: DataFolder | None,
) -> Section:
    notes = list(evidence.notes) if evidence else []
    cells: dict[Slot, list[Condition]] = {}
    defended: dict[pairs.Slot, Measured] = {}
    for slot, runs in evidence.runs.items() if evidence else ():
        if slot.defence is None:
            cells[slot.subject, slot.variant, slot.attack] = list(runs.conditions)
        else:
            defended[slot] = _points(runs.conditions, rows)
    used = [*cells, *((slot.subject, slot.variant, slot.attack) for slot in defended)]
    real = _of_versions([cell for cell in conditions if not cell.simulation], evidence)
    num_left = len(real) - sum(len(runs.conditions) for runs in evidence.runs.values()) if evidence else 0
    notes += _notes_on_runs(cells, num_left)
    simulated = _of_these_originals([cell for cell in conditions if cell.simulation], name[1], data, notes)
    return Section(
        dataset=name[0],
        split=name[1],
        subjects=sorted({subject for subject, _, _ in used}, key=subject_order),
        variants=sorted({variant for _, variant, _ in used}, key=quality_order),
        attacks=sorted({attack for _, _, attack in used}, key=attack_order),
        conditions=[*real, *simulated],
        cells=cells,
        points={
            (slot, metric): point
            for slot, found in cells.items()
            for metric, point in _points(found, rows).items()
        },
        data=data,
        notes=notes,
        evidence=evidence,
        defended=defended,
        simulated=_simulated(simulated, rows),
    )


def _of_versions(conditions: Sequence[Condition], evidence: Evidence | None) -> list[Condition]:
    """The conditions about the versions of the variants that the evidence keeps."""
    if evidence is None:
        return []
    known = {cell.data_id for runs in evidence.runs.values() for cell in runs.conditions}
    return [cell for cell in conditions if cell.data_id in known]


def _simulated(
    conditions: Sequence[Condition], rows: Mapping[Condition, dict[str, MetricRow]]
) -> dict[tuple[Slot, str], Measured]:
    subject_of, attack_of = subjects_of(conditions), attacks_of(conditions)
    cells: dict[tuple[Slot, str], list[Condition]] = defaultdict(list)
    for cell in conditions:
        slot = (subject_of[cell], (cell.test_codec, cell.test_quality), attack_of[cell])
        behind = f", behind {cell.defence_codec} q{cell.defence_quality}" if cell.defence_codec else ""
        cells[slot, cell.simulation + behind].append(cell)
    return {key: _points(one_per_run(found), rows) for key, found in cells.items()}


def _of_these_originals(
    conditions: Sequence[Condition], split: str, data: DataFolder | None, notes: list[str]
) -> list[Condition]:
    """The simulated conditions made from the originals at hand; raises `DataError` where two versions meet."""
    ids = {cell.data_id for cell in conditions}
    manifest = data.manifests.get(("source", None)) if data else None
    current = manifest.data_id(split) if manifest else ""
    if current in ids:
        kept = [cell for cell in conditions if cell.data_id == current]
        if len(kept) < len(conditions):
            left = _count(len(conditions) - len(kept), "simulated cell", "simulated cells")
            notes.append(f"{left} of an earlier version of the data left out.")
        return kept
    if len(ids) > 1:
        raise DataError(
            f"the simulated results hold {len(ids)} different versions of dataset '{conditions[0].dataset}', "
            f"{split}: give --data-dir of the one to report, or evaluate into a new folder"
        )
    return list(conditions)


def _notes_on_runs(cells: Mapping[Slot, list[Condition]], num_left: int) -> list[str]:
    notes: list[str] = []
    if num_left:
        notes.append(
            f"{_count(num_left, 'cell differs', 'cells differ')} from another only in batch size or precision. "
            "Figures show the float32 cell of the largest batch; metrics.csv lists every cell."
        )
    if len({len(found) for slot, found in cells.items() if len(slot[0].checkpoints) > 1}) > 1:
        notes.append("Not every seed was evaluated under every condition; n seeds is given with each mean.")
    return notes


def _points(cells: Sequence[Condition], rows: Mapping[Condition, dict[str, MetricRow]]) -> dict[str, Point]:
    """Every metric that one of the cells has, as a mean over those that have it."""
    names = dict.fromkeys(name for cell in cells for name in rows[cell])
    return {name: _point([rows[cell][name] for cell in cells if name in rows[cell]]) for name in names}


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
