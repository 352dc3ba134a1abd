"""Predictions aligned image by image: what was tested, and its runs as (S, N) arrays in one order of images.

All cells of one split of one dataset hold the same images, so their rows pair by sample key. Keys are compared as
whole Arrow columns; no loop over images.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
from limla.errors import DataError
from limla.files import canonical_json, content_id
from limla.metrics import Flags
from limla.plans import THREATS
from limla.results import Condition

Predictions: TypeAlias = Sequence[tuple[Condition, pa.Table]]
"""Conditions with their prediction tables, as `limla.results.read_predictions` gives them."""

_DEFENCE = "defence"


@dataclass(frozen=True)
class Defence:
    """A codec that every image goes through before the model.

    Attributes:
        codec, quality: as in `Condition`: "jpeg", and "50", or "10+50" when each image's is drawn at random.
        settings: canonical JSON of the codec's other settings.
        label: "jpeg q50", "jpeg q10+50 at random"; with a hash of the settings where they alone tell two apart.
    """

    codec: str
    quality: str
    settings: str
    label: str


@dataclass(frozen=True)
class Slot:
    """What one or more runs of a subject were tested under.

    Attributes:
        subject: whose runs they are.
        variant: (codec, quality) of the test images; ("source", None) for the originals.
        attack: the clean pass, or an attack; its settings leave those of the defence out.
        defence: None without.
        threat: what the attacker knows of the defence, a name of `limla.plans.THREATS`; "" without either.
    """

    subject: Subject
    variant: Variant
    attack: Attack
    defence: Defence | None = None
    threat: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether there is neither an attack nor a defence."""
        return self.attack.is_none and self.defence is None


@dataclass(frozen=True)
class Runs:
    """The cells of one slot, one per checkpoint, by rising seed: S runs on the same N images.

    Attributes:
        conditions: of the S cells.
        tables: their prediction rows.
        orders: for each cell the (N,) places of the images in its table; None where the table has the common order.
    """

    conditions: tuple[Condition, ...]
    tables: tuple[pa.Table, ...]
    orders: tuple[npt.NDArray[np.int32] | None, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seed of each run."""
        return tuple(condition.seed for condition in self.conditions)

    @property
    def num_images(self) -> int:
        """N."""
        return self.tables[0].num_rows

    def correct(self) -> Flags:
        """(S, N) bool: which images are right."""
        return self._stacked("correct").astype(np.bool_, copy=False)

    def predictions(self) -> npt.NDArray[np.int32]:
        """(S, N) int32 predicted class indices."""
        return self._stacked("prediction")

    def confidences(self) -> npt.NDArray[np.float32]:
        """(S, N) float32 softmax probabilities of the predictions."""
        return self._stacked("confidence")

    def losses(self) -> npt.NDArray[np.float32]:
        """(S, N) float32 cross-entropies, nats."""
        return self._stacked("loss")

    def keys(self) -> pa.Array:
        """(N,) sample keys."""
        keys = self.tables[0]["key"].combine_chunks()
        return keys if self.orders[0] is None else keys.take(pa.array(self.orders[0]))

    def labels(self) -> npt.NDArray[np.int32]:
        """(N,) int32 true class indices."""
        return self._column(0, "label")

    def only(self, places: Sequence[int]) -> Runs:
        """Some of the runs, in the order of `places`."""
        return Runs(
            tuple(self.conditions[place] for place in places),
            tuple(self.tables[place] for place in places),
            tuple(self.orders[place] for place in places),
        )

    def _stacked(self, name: str) -> npt.NDArray[Any]:
        return np.stack([self._column(place, name) for place in range(len(self.tables))])

    def _column(self, place: int, name: str) -> npt.NDArray[Any]:
        values, order = self.tables[place][name].to_numpy(), self.orders[place]
        return values if order is None else values[order]


@dataclass(frozen=True)
class Evidence:
    """All aligned predictions on one split of one dataset; simulated conditions are no part of it.

    Attributes:
        dataset, split: of the conditions.
        runs: by slot, in reading order: subject, variant, attack, defence, threat.
        data: the dataset's shard folders, when given.
        notes: what a reader must know before comparing.
    """

    dataset: str
    split: str
    runs: Mapping[Slot, Runs]
    data: DataFolder | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def subjects(self) -> list[Subject]:
        """In reading order."""
        return list(dict.fromkeys(slot.subject for slot in self.runs))

    def rate_bpp(self, variant: Variant) -> float | None:
        """Mean bits per pixel of a variant over the split's images; None when not known."""
        summary = self.data.summary(variant, self.split) if self.data else None
        return summary.mean_rate_bpp if summary else None


def collect(predictions: Predictions, data: Mapping[str, DataFolder]) -> list[Evidence]:
    """The evidence of each (dataset, split), sorted.

    `data` is dataset name → shard folders, as `read_data_folders` gives them; it may be empty. Raises `DataError`
    when cells of one split do not hold the same images with the same labels, naming both, or when two versions of a
    dataset meet and `data` does not tell which one is meant.
    """
    by_split: dict[tuple[str, str], list[Condition]] = defaultdict(list)
    for condition, _ in predictions:
        if not condition.simulation:
            by_split[condition.dataset, condition.split].append(condition)
    tables = dict(predictions)
    return [
        _evidence(dataset, split, conditions, tables, data.get(dataset))
        for (dataset, split), conditions in sorted(by_split.items())
    ]


def _evidence(
    dataset: str,
    split: str,
    conditions: Sequence[Condition],
    tables: Mapping[Condition, pa.Table],
    data: DataFolder | None,
) -> Evidence:
    notes: list[str] = []
    conditions = of_one_version(conditions, split, data, notes)
    slots: dict[Slot, list[Condition]] = defaultdict(list)
    for condition, slot in _slots(conditions).items():
        slots[slot].append(condition)
    runs: dict[Slot, Runs] = {}
    reference: _Images | None = None
    for slot in sorted(slots, key=slot_order):
        cells = one_per_run(slots[slot])
        if reference is None:
            reference = _Images.of(cells[0], tables[cells[0]])
        orders = tuple(reference.places_in(cell, tables[cell]) for cell in cells)
        runs[slot] = Runs(tuple(cells), tuple(tables[cell] for cell in cells), orders)
    notes += _notes_on_precision(runs)
    return Evidence(dataset, split, runs, data, notes)


def _notes_on_precision(runs: Mapping[Slot, Runs]) -> list[str]:
    """A line for each subject whose cells were computed in several precisions, which differences then hold too."""
    known: dict[str, set[str]] = defaultdict(set)
    for slot, of_slot in runs.items():
        known[slot.subject.label] |= {cell.precision for cell in of_slot.conditions}
    return [
        f"{label}: some of its cells were evaluated in {' and some in '.join(sorted(precisions))}; differences between "
        "them are partly those of the arithmetic."
        for label, precisions in known.items()
        if len(precisions) > 1
    ]


def common_runs(before: Runs, after: Runs) -> tuple[Runs, Runs] | None:
    """The runs of the same checkpoints on both sides, in one order; None where there is none."""
    return _matched(before, after, [cell.checkpoint_id for cell in before.conditions], "checkpoint_id")


def runs_by_seed(before: Runs, after: Runs) -> tuple[Runs, Runs]:
    """The runs of two subjects that share a seed; without a shared seed, as many as both have, by rising seed.

    Models trained differently are different models whatever their seeds; a shared seed only shares the chance that
    comes with it (first weights, order of images).
    """
    found = _matched(before, after, list(before.seeds), "seed")
    if found is not None:
        return found
    number = range(min(len(before.conditions), len(after.conditions)))
    return before.only(number), after.only(number)


def _matched(before: Runs, after: Runs, names: Sequence[object], name: str) -> tuple[Runs, Runs] | None:
    places = {getattr(cell, name): place for place, cell in enumerate(after.conditions)}
    pairs = [(place, places[value]) for place, value in enumerate(names) if value in places]
    if not pairs:
        return None
    return before.only([place for place, _ in pairs]), after.only([place for _, place in pairs])


@dataclass(frozen=True)
class _Images:
    """The images of a cell, that others are compared with."""

    condition: Condition
    keys: pa.ChunkedArray
    labels: pa.ChunkedArray

    @classmethod
    def of(cls, condition: Condition, table: pa.Table) -> _Images:
        keys = table["key"]
        if pc.call_function("count_distinct", [keys]).as_py() != len(keys):
            raise DataError(
                f"cell {condition.cell_id} holds an image twice; remove its prediction file and evaluate again"
            )
        return cls(condition, keys, table["label"])

    def places_in(self, condition: Condition, table: pa.Table) -> npt.NDArray[np.int32] | None:
        """Where each image stands in `table`; None where the order is the same.

        Raises `DataError` naming both cells when the images or their labels are not the same.
        """
        keys, labels = table["key"], table["label"]
        order = None
        if not keys.equals(self.keys):
            options = pc.SetLookupOptions(value_set=keys.combine_chunks())
            places = pc.call_function("index_in", [self.keys.combine_chunks()], options)
            if places.null_count or len(keys) != len(self.keys):
                raise self._differ(condition, "different images")
            order = places.to_numpy()
            labels = labels.take(places)
        if not labels.equals(self.labels):
            raise self._differ(condition, "the same images with different labels")
        return order

    def _differ(self, condition: Condition, what: str) -> DataError:
        return DataError(
            f"cells {self.condition.cell_id} and {condition.cell_id} hold {what} of dataset '{condition.dataset}', "
            f"{condition.split}: remove the prediction file that is older than the shards and evaluate again"
        )


def slot_order(slot: Slot) -> tuple[object, ...]:
    """Sort key: subject, variant, attack, defence, threat; what is left alone comes first."""
    defence = slot.defence
    return (
        subject_order(slot.subject),
        quality_order(slot.variant),
        attack_order(slot.attack),
        () if defence is None else (defence.codec, tuple(map(int, defence.quality.split("+"))), defence.label),
        list(THREATS).index(slot.threat) if slot.threat in THREATS else -1,
        slot.threat,
    )


def _slots(conditions: Sequence[Condition]) -> dict[Condition, Slot]:
    """The slot of each condition."""
    subject_of = subjects_of(conditions)
    undefended = _undefended(conditions)
    attack_of = attacks_of(list(undefended.values()))
    defence_of = _defences(conditions)
    return {
        condition: Slot(
            subject_of[condition],
            (condition.test_codec, condition.test_quality),
            attack_of[undefended[condition]],
            defence_of.get(condition),
            condition.threat,
        )
        for condition in conditions
    }


def _undefended(conditions: Sequence[Condition]) -> dict[Condition, Condition]:
    """Each condition with the attack's settings as they are without a defence, so that equal attacks are one.

    A defence that draws qualities records the seed of the draw with the attack; an attack that draws nothing itself
    has none elsewhere.
    """
    found: dict[Condition, Condition] = {}
    for condition in conditions:
        settings = _settings_of_defended(condition)
        settings.pop(_DEFENCE, None)
        text = canonical_json(settings) if condition.defence_codec else condition.attack_settings
        found[condition] = replace(condition, attack_settings=text)
    known = {_attack_key(cell) for original, cell in found.items() if "+" not in original.defence_quality}
    for condition, cell in found.items():
        if "+" in condition.defence_quality and _attack_key(cell) not in known:
            settings = _settings_of_defended(cell)
            settings.pop("seed", None)
            seedless = replace(cell, attack_settings=canonical_json(settings))
            found[condition] = seedless if _attack_key(seedless) in known else cell
    return found


def _attack_key(condition: Condition) -> tuple[str, str, float, str]:
    return condition.attack, condition.norm, condition.eps, condition.attack_settings


def _settings_of_defended(condition: Condition) -> dict[str, object]:
    """The settings of a defended cell's attack and defence; {} for a cell without a defence."""
    return json.loads(condition.attack_settings or "{}") if condition.defence_codec else {}


def _defences(conditions: Sequence[Condition]) -> dict[Condition, Defence]:
    """The defence of each condition that has one."""
    keys: dict[Condition, tuple[str, str, str]] = {}
    for condition in conditions:
        if condition.defence_codec:
            settings = canonical_json(_settings_of_defended(condition).get(_DEFENCE, {}))
            keys[condition] = (condition.defence_codec, condition.defence_quality, settings)
    known = set(keys.values())
    found: dict[Condition, Defence] = {}
    for condition, (codec, quality, settings) in keys.items():
        label = f"{codec} q{quality}" + (" at random" if "+" in quality else "")
        if len({key for key in known if key[:2] == (codec, quality)}) > 1:
            label += f" ({content_id(settings)[:6]})"
        found[condition] = Defence(codec, quality, settings, label)
    return found
