"""Conditions arranged for reading: what is a curve, what is a point on it, what is averaged.

A *subject* is what is tested: a model with its training condition. Checkpoints of one training condition with
different seeds are one subject, and its points are means over the seeds. A *section* holds everything measured on
one split of one dataset; results of several datasets or splits give several sections, never a mixture.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from limla.errors import DataError
from limla.reporting.aggregates import NO_ATTACK
from limla.reporting.encodings import DataFolder, Variant, quality_order
from limla.results import Condition, MetricRow

ORIGINALS = "originals"


@dataclass(frozen=True)
class Subject:
    """A model with its training condition.

    Attributes:
        model, train_codec, train_quality, preprocessing, decoder: as in `Condition`.
        checkpoint_id: "" when checkpoints of several seeds are one subject.
        label: a text that tells it from the other subjects of its section.
        checkpoints: (checkpoint_id, seed) of its runs.
    """

    model: str
    train_codec: str
    train_quality: str
    preprocessing: str
    decoder: str
    checkpoint_id: str
    label: str
    checkpoints: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Attack:
    """An attack with its settings; `label` reads "PGD-10, ε = 8/255"."""

    attack: str
    norm: str
    eps: float
    attack_settings: str
    label: str

    @property
    def is_none(self) -> bool:
        """True for the clean pass."""
        return self.attack == NO_ATTACK


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
    conditions = _of_one_version(conditions, split, data, notes)
    subject_of = _subjects(conditions)
    attack_of = _attacks(conditions)
    slots: dict[Slot, list[Condition]] = defaultdict(list)
    for condition in conditions:
        variant = (condition.test_codec, condition.test_quality)
        slots[subject_of[condition], variant, attack_of[condition]].append(condition)
    cells = {slot: _one_per_run(found) for slot, found in slots.items()}
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
        subjects=sorted(set(subject_of.values()), key=_subject_order),
        variants=sorted({slot[1] for slot in cells}, key=quality_order),
        attacks=sorted(set(attack_of.values()), key=_attack_order),
        conditions=conditions,
        cells=cells,
        points=points,
        data=data,
        notes=notes,
    )


def _of_one_version(
    conditions: list[Condition], split: str, data: DataFolder | None, notes: list[str]
) -> list[Condition]:
    """Keep the conditions of the data at hand where a variant was made anew between evaluations."""
    ids: dict[Variant, set[str]] = defaultdict(set)
    for condition in conditions:
        ids[condition.test_codec, condition.test_quality].add(condition.data_id)
    current = {variant: manifest.data_id(split) for variant, manifest in data.manifests.items()} if data else {}
    wanted: dict[Variant, str] = {}
    changed: list[Variant] = []
    for variant, known in ids.items():
        if len(known) == 1:
            wanted[variant] = next(iter(known))
            if current.get(variant, wanted[variant]) not in known:
                changed.append(variant)
        elif current.get(variant) in known:
            wanted[variant] = current[variant]
        else:
            raise DataError(
                f"the results hold {len(known)} different versions of dataset '{conditions[0].dataset}', "
                f"{split}, {_plain(variant)}: give --data-dir of the one to report, or evaluate into a new folder"
            )
    if changed:
        names = ", ".join(_plain(variant) for variant in sorted(changed, key=quality_order))
        notes.append(
            f"The shards of {names} have changed since they were evaluated: rate and PSNR below are those of the "
            "shards at hand, accuracy that of the earlier ones."
        )
    kept = [cell for cell in conditions if wanted[cell.test_codec, cell.test_quality] == cell.data_id]
    if len(kept) < len(conditions):
        notes.append(
            f"{_count(len(conditions) - len(kept), 'cell', 'cells')} of an earlier version of the data left out."
        )
    return kept


def _plain(variant: Variant) -> str:
    return "the originals" if variant[1] is None else f"{variant[0]} q{variant[1]}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _base(condition: Condition) -> tuple[str, str, str, str, str]:
    return (
        condition.model,
        condition.train_codec,
        condition.train_quality,
        condition.preprocessing,
        condition.decoder,
    )


def _subjects(conditions: Sequence[Condition]) -> dict[Condition, Subject]:
    """The subject of each condition; runs are joined only where each has its own known seed."""
    runs: dict[tuple[str, str, str, str, str], set[tuple[str, int]]] = defaultdict(set)
    for condition in conditions:
        runs[_base(condition)].add((condition.checkpoint_id, condition.seed))
    keys: dict[tuple[tuple[str, str, str, str, str], str], tuple[tuple[str, int], ...]] = {}
    for base, checkpoints in runs.items():
        seeds = [seed for _, seed in checkpoints]
        if len(checkpoints) == 1 or (len(set(seeds)) == len(seeds) and -1 not in seeds):
            keys[base, ""] = tuple(sorted(checkpoints, key=lambda run: (run[1], run[0])))
        else:
            for run in checkpoints:
                keys[base, run[0]] = (run,)
    labels = _subject_labels([(*base, checkpoint) for base, checkpoint in keys])
    subjects = {
        key: Subject(*key[0], key[1], label, checkpoints)
        for (key, checkpoints), label in zip(keys.items(), labels, strict=True)
    }
    return {
        condition: subjects.get((_base(condition), "")) or subjects[_base(condition), condition.checkpoint_id]
        for condition in conditions
    }


def train_text(train_codec: str, train_quality: str) -> str:
    """ "originals", "jpeg q10", "jpeg q1+10+50", "unknown training"."""
    if train_quality == "source":
        return ORIGINALS
    if train_quality == "unknown":
        return "unknown training"
    return f"{train_codec} q{train_quality}"


def _subject_labels(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Model and training condition, and whatever else differs among the subjects."""
    labels: list[str] = []
    for model, codec, quality, *rest in keys:
        parts = [model.rsplit(":", 1)[-1] if ":" in model else model, train_text(codec, quality)]
        alike = [key for key in keys if key[:3] == (model, codec, quality)]
        parts += [value for place, value in enumerate(rest, 3) if len({key[place] for key in alike}) > 1]
        labels.append(" · ".join(part for part in parts if part))
    if len(set(labels)) < len(labels):  # two functions of one name: their modules tell them apart
        return [f"{key[0]} · {' · '.join(part for part in key[1:] if part)}" for key in keys]
    return labels


def _attacks(conditions: Sequence[Condition]) -> dict[Condition, Attack]:
    """The attack of each condition; settings that alone tell two attacks apart join the label."""
    keys = {(cell.attack, cell.norm, cell.eps, cell.attack_settings) for cell in conditions}
    clean = {key: ("none", "", 0.0, "") for key in keys if key[0] == NO_ATTACK}
    labels: dict[tuple[str, str, float, str], str] = {}
    for key in keys - clean.keys():
        short = _attack_label(*key)
        alike = [other for other in keys if _attack_label(*other) == short]
        labels[key] = short if len(alike) == 1 else f"{short} {_different_settings(key, alike)}"
    found: dict[Condition, Attack] = {}
    for cell in conditions:
        key = (cell.attack, cell.norm, cell.eps, cell.attack_settings)
        found[cell] = Attack(*clean[key], "no attack") if key in clean else Attack(*key, labels[key])
    return found


def _attack_label(attack: str, norm: str, eps: float, settings: str) -> str:
    steps = _settings(settings).get("steps")
    name = f"{attack.upper()}-{steps}" if steps is not None else attack.upper()
    del norm
    return f"{name}, ε = {eps_text(eps)}"


def _different_settings(key: tuple[str, str, float, str], alike: Sequence[tuple[str, str, float, str]]) -> str:
    mine = _settings(key[3]) | {"norm": key[1]}
    others = [_settings(other[3]) | {"norm": other[1]} for other in alike]
    names = sorted(set().union(*others))
    differing = [name for name in names if len({str(other.get(name)) for other in others}) > 1]
    return f"({', '.join(f'{name} {mine.get(name)}' for name in differing)})"


def _settings(text: str) -> dict[str, object]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {"settings": text}
    return found if isinstance(found, dict) else {"settings": text}


def eps_text(eps: float) -> str:
    """ "0.1" where three decimals say it, "8/255" where eps is a multiple of a quarter of 1/255."""
    scaled = eps * 255
    if abs(eps - round(eps, 3)) > 1e-9 and abs(scaled * 4 - round(scaled * 4)) < 1e-6:
        return f"{scaled:.4g}/255"
    return f"{eps:.4g}"


def _one_per_run(conditions: list[Condition]) -> list[Condition]:
    best: dict[str, Condition] = {}
    for cell in sorted(
        conditions, key=lambda cell: (cell.precision != "float32", -cell.batch_size, cell.cell_id)
    ):
        best.setdefault(cell.checkpoint_id, cell)
    return sorted(best.values(), key=lambda cell: (cell.seed, cell.checkpoint_id))


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


def _subject_order(subject: Subject) -> tuple[object, ...]:
    kind = {"source": 0, "unknown": 3}.get(subject.train_quality, 2 if "+" in subject.train_quality else 1)
    quality = subject.train_quality
    number = float(quality) if quality.isdigit() else 0.0
    return (subject.model, kind, subject.train_codec, number, quality, subject.label)


def _attack_order(attack: Attack) -> tuple[object, ...]:
    return (not attack.is_none, attack.attack, attack.norm, attack.eps, attack.label)
