"""Attacked conditions beside the clean ones they came from: one subject and test variant, every attack and defence.

An *arena* is one subject on one test variant. Its *trials* are all that was done there, each with the rows of every
seed, aligned by sample key: none or one attack, without a defence or behind one under a threat model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limla.analysis.encodings import Variant, quality_order
from limla.analysis.subjects import Attack, Subject, attack_order, attacks_of, one_per_run, subjects_of
from limla.errors import DataError
from limla.files import canonical_json
from limla.metrics import Flags
from limla.results import Condition

Predictions = Sequence[tuple[Condition, pa.Table]]
"""Conditions with their prediction tables, as `limla.results.read_predictions` gives them."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Defence:
    """A codec between attack and model.

    Attributes:
        codec, quality: as in `Condition`; ("", "") for none.
        settings: canonical JSON of the codec's knobs and version.
    """

    codec: str = ""
    quality: str = ""
    settings: str = ""

    @property
    def is_none(self) -> bool:
        """True without a defence."""
        return not self.codec

    @property
    def label(self) -> str:
        """ "jpeg 50", "jpeg 10+50 (drawn)", "none"."""
        if self.is_none:
            return "none"
        return f"{self.codec} {self.quality}" + (" (drawn)" if "+" in self.quality else "")


NO_DEFENCE = Defence()


@dataclass(frozen=True)
class TrialKey:
    """What was done to the images: `threat` is "" without attack or without defence."""

    attack: Attack
    defence: Defence = NO_DEFENCE
    threat: str = ""


@dataclass(frozen=True)
class Trial:
    """The rows of one trial, S checkpoints × the arena's N images in the order of its keys.

    Attributes:
        key: what was done.
        conditions: one per checkpoint, by rising seed.
    """

    key: TrialKey
    conditions: tuple[Condition, ...]
    _tables: tuple[pa.Table, ...]
    _orders: tuple[Ints | None, ...]

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The checkpoint of each row of the arrays."""
        return tuple(condition.checkpoint_id for condition in self.conditions)

    @cached_property
    def correct(self) -> Flags:
        """(S, N): the prediction is the label."""
        return self._columns("correct").astype(np.bool_)

    @cached_property
    def predicted(self) -> Ints:
        """(S, N) class indices."""
        return self._columns("prediction").astype(np.int64)

    @cached_property
    def confidences(self) -> npt.NDArray[np.float32]:
        """(S, N) softmax probabilities of the predictions."""
        return self._columns("confidence").astype(np.float32)

    @cached_property
    def targets(self) -> Ints | None:
        """(S, N) classes that a targeted attack aims at; None for others."""
        return self._columns("target").astype(np.int64) if self._has("target") else None

    @cached_property
    def num_bytes(self) -> Ints | None:
        """(S, N) bytes of the defence's bitstreams; None without a defence."""
        return self._columns("num_bytes").astype(np.int64) if self._has("num_bytes") else None

    @cached_property
    def failed(self) -> Flags:
        """(S, N): the attack failed: the label is still predicted or, of a targeted attack, the target is not."""
        return self.correct if self.targets is None else self.predicted != self.targets

    def _has(self, name: str) -> bool:
        return all(name in table.column_names and table[name].null_count == 0 for table in self._tables)

    def _columns(self, name: str) -> npt.NDArray[Any]:
        columns = [table[name].to_numpy(zero_copy_only=False) for table in self._tables]
        orders = zip(columns, self._orders, strict=True)
        return np.stack([column if order is None else column[order] for column, order in orders])


@dataclass(frozen=True)
class Arena:
    """One subject on one test variant.

    Attributes:
        dataset, split, simulation, preprocessing: as in `Condition`.
        subject: model and training condition, all seeds.
        variant: (codec, quality) of the test images.
        keys: (N,) sample keys, labels: (N,) true classes.
        trials: by what was done; clean ones first, undefended before defended.
    """

    dataset: str
    split: str
    simulation: str
    preprocessing: str
    subject: Subject
    variant: Variant
    keys: pa.Array
    labels: Ints
    trials: dict[TrialKey, Trial]

    def clean(self, defence: Defence = NO_DEFENCE) -> Trial | None:
        """The trial without an attack behind `defence`; None where it was not evaluated."""
        for key, trial in self.trials.items():
            if key.attack.is_none and key.defence == defence:
                return trial
        return None

    @property
    def defences(self) -> list[Defence]:
        """No defence first, where it was evaluated, then by codec and quality."""
        found = {key.defence for key in self.trials}
        return sorted(found, key=lambda one: (one.codec, [int(part) for part in one.quality.split("+") if part]))


def arenas(predictions: Predictions) -> list[Arena]:
    """Every subject on every test variant, by dataset, subject and falling quality.

    Of cells that differ in nothing but seed of the attack, batch size and precision one per checkpoint is taken
    (`limla.analysis.subjects.one_per_run`). Raises `DataError` when the images of an arena's conditions differ.
    """
    tables = dict(predictions)
    of_subject = subjects_of(list(tables))
    plain = {condition: _without_defence(condition) for condition in tables}
    of_attack = attacks_of(list(dict.fromkeys(plain.values())))
    found: dict[tuple[Any, ...], dict[TrialKey, list[Condition]]] = defaultdict(lambda: defaultdict(list))
    for condition in tables:
        place = (
            condition.dataset,
            condition.split,
            condition.data_id,
            condition.simulation,
            of_subject[condition],
            (condition.test_codec, condition.test_quality),
        )
        key = TrialKey(of_attack[plain[condition]], _defence(condition), condition.threat)
        found[place][key].append(condition)
    made = [_arena(place, of_key, tables) for place, of_key in found.items()]
    return sorted(made, key=_order)


def common_rows(*trials: Trial) -> list[list[int]]:
    """For each trial the rows of the checkpoints that all of them have, in one order; empty lists where none is."""
    shared = [
        checkpoint
        for checkpoint in trials[0].checkpoints
        if all(checkpoint in trial.checkpoints for trial in trials)
    ]
    return [[trial.checkpoints.index(checkpoint) for checkpoint in shared] for trial in trials]


def _order(arena: Arena) -> tuple[object, ...]:
    return (arena.dataset, arena.split, arena.subject.label, arena.simulation, _falling(arena.variant))


def _falling(variant: Variant) -> tuple[object, ...]:
    rank, codec, quality = quality_order(variant)
    return (-rank, codec, -quality)


def _defence(condition: Condition) -> Defence:
    if not condition.defence_codec:
        return NO_DEFENCE
    settings = canonical_json(json.loads(condition.attack_settings or "{}").get("defence", {}))
    return Defence(condition.defence_codec, condition.defence_quality, settings)


def _without_defence(condition: Condition) -> Condition:
    """The condition with the attack's own settings alone: equal for one attack with and without a defence."""
    settings = json.loads(condition.attack_settings or "{}")
    kept = {name: value for name, value in settings.items() if name not in ("defence", "seed")}
    return replace(
        condition, attack_settings=canonical_json(kept), threat="", defence_codec="", defence_quality=""
    )


def _arena(
    place: tuple[Any, ...], of_key: dict[TrialKey, list[Condition]], tables: dict[Condition, pa.Table]
) -> Arena:
    dataset, split, _, simulation, subject, variant = place
    keys: pa.Array | None = None
    labels = np.empty(0, np.int64)
    trials: dict[TrialKey, Trial] = {}
    for key in sorted(of_key, key=_trial_order):
        chosen = one_per_run(of_key[key])
        orders: list[Ints | None] = []
        for condition in chosen:
            table = tables[condition]
            mine = table["key"].combine_chunks()
            if keys is None:
                keys, labels = mine, table["label"].to_numpy().astype(np.int64)
            orders.append(_order_of(keys, mine, condition))
        rows = tuple(tables[condition] for condition in chosen)
        trials[key] = Trial(key, tuple(chosen), rows, tuple(orders))
    assert keys is not None, "an arena has a condition"
    return Arena(dataset, split, simulation, subject.preprocessing, subject, variant, keys, labels, trials)


def _trial_order(key: TrialKey) -> tuple[object, ...]:
    return (*attack_order(key.attack), not key.defence.is_none, key.defence.codec, key.defence.quality, key.threat)


def _order_of(keys: pa.Array, mine: pa.Array, condition: Condition) -> Ints | None:
    """Where each of `keys` stands in `mine`; None where all stand as they should."""
    if mine.equals(keys):
        return None
    places = pc.call_function("index_in", [keys], pc.SetLookupOptions(value_set=mine))
    if places.null_count or len(mine) != len(keys) or len(mine.unique()) != len(mine):
        raise DataError(
            f"cell {condition.cell_id} does not hold the images of the other cells of {condition.model} on "
            f"{condition.dataset}, {condition.split}; remove its prediction file and evaluate again"
        )
    return places.to_numpy().astype(np.int64)
