"""How far a study is, and about how long the rest takes: read from what lies on disk, nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from limla.codecs import codec_name
from limla.errors import DataError
from limla.manifest import SOURCE, list_variants, read_manifest, variant_name
from limla.results import prediction_path
from limla.running.stages import DatasetStages, dataset_stages, evaluations, placed
from limla.running.times import CellKind, cell_seconds, model_seconds, read_timings, training_seconds
from limla.study import Study

if TYPE_CHECKING:
    from limla.evaluation import EvaluateSettings
    from limla.training import TrainSettings

_Key: TypeAlias = tuple[str, str, str, float, str, str, str]
"""Variant, attack, norm, eps, the attack's other parameters, threat, defence."""


@dataclass(frozen=True)
class Progressed:
    """One kind of work.

    Attributes:
        name: "variants", "models" or "cells".
        done, total: how many.
        seconds_left: about how long the rest takes; None while nothing of the kind has been timed.
    """

    name: str
    done: int
    total: int
    seconds_left: float | None

    @property
    def num_left(self) -> int:
        """What is still to do."""
        return self.total - self.done


@dataclass(frozen=True)
class StudyStatus:
    """How far a study is.

    Attributes:
        variants: shard folders, the originals included.
        models: trained models.
        cells: files of prediction rows.
    """

    variants: Progressed
    models: Progressed
    cells: Progressed

    @property
    def seconds_left(self) -> float | None:
        """Of models and cells together; None where one of them cannot be told yet."""
        parts = [part.seconds_left for part in (self.models, self.cells) if part.num_left]
        return None if None in parts else float(sum(part for part in parts if part is not None))


def study_status(study: Study) -> StudyStatus:
    """How far a study is. Raises a `LimlaError` for settings that a stage refuses and for damaged files."""
    from limla.evaluation import TIMINGS

    stages = dataset_stages(study)
    wanted = [variant_name(*variant) for variant in study.variants()]
    there = [list_variants(one.data_dir) for one in stages]
    done, total = 0, 0
    finished: list[tuple[Hashable, float]] = []
    models_left: list[Hashable] = []
    cells_left: list[tuple[CellKind, int | None]] = []
    for one in stages:
        num_images = _num_images(study, one)
        for settings, is_trained in _models(study, one):
            kinds = _kinds(evaluations(study, one, (Path("later"),)), settings.model)
            total += len(kinds)
            keys: set[_Key] = set()
            if is_trained:
                finished.append((_training_kind(settings), training_seconds(settings.output_dir)))
                keys = _finished_cells(study, one, settings)
            else:
                models_left.append(_training_kind(settings))
            done += len(keys)
            cells_left += [(kind, num_images) for key, kind in kinds.items() if key not in keys]
    return StudyStatus(
        Progressed(
            "variants",
            sum(name in names for names in there for name in wanted),
            len(wanted) * len(stages),
            None,
        ),
        Progressed(
            "models", len(finished), len(finished) + len(models_left), model_seconds(models_left, finished)
        ),
        Progressed("cells", done, total, cell_seconds(cells_left, read_timings(study.results_dir / TIMINGS))),
    )


def _num_images(study: Study, stages: DatasetStages) -> int | None:
    """Of the split that is tested; None where the data are not there yet."""
    if SOURCE not in list_variants(stages.data_dir):
        return None
    return read_manifest(stages.data_dir / SOURCE).num_samples(study.evaluation.split)


def _training_kind(settings: TrainSettings) -> Hashable:
    """What the time of a training depends on."""
    return (settings.data_dir, settings.model, settings.qualities, settings.train_method, settings.epochs)


def _models(study: Study, stages: DatasetStages) -> list[tuple[TrainSettings, bool]]:
    """Every model, and whether it is trained: in its own folder, which is known once the data are there."""
    needed = {SOURCE, *(folder.name for settings in stages.train for folder in settings.folders())}
    if not needed <= set(list_variants(stages.data_dir)):
        return [(settings, False) for settings in stages.train]
    return [(settings, _is_finished(settings.output_dir)) for settings in placed(study, stages)]


def _is_finished(folder: Path) -> bool:
    path = folder / "info.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("finished"))
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and run the study again") from error


def _keys(settings: EvaluateSettings, model: str) -> list[tuple[_Key, CellKind]]:
    """Every cell of one model in the order of `planned_conditions`: what tells it apart, and its kind."""
    from limla.evaluation.grid import plan_cells
    from limla.models.base import canonical_name

    found: list[tuple[_Key, CellKind]] = []
    name = canonical_name(model)
    for quality in settings.qualities:
        for plan in plan_cells(settings):
            attack = plan.attack
            defence = "" if plan.defence is None else plan.defence.plan.label
            parameters = json.dumps(attack.settings(), sort_keys=True)
            variant = variant_name(SOURCE if quality is None else codec_name(settings.codec), quality)
            key = (variant, attack.name, attack.norm, attack.eps, parameters, plan.threat, defence)
            number = 0 if plan.defence is None else len(plan.defence.plan.qualities)
            found.append((key, CellKind(name, attack.name, attack.num_gradients, plan.threat, number)))
    return found


def _kinds(evaluated: Sequence[EvaluateSettings], model: str) -> dict[_Key, CellKind]:
    return {key: kind for settings in evaluated for key, kind in _keys(settings, model)}


def _finished_cells(study: Study, stages: DatasetStages, trained: TrainSettings) -> set[_Key]:
    """Of a trained model, those whose rows are there."""
    from limla.evaluation import planned_conditions
    from limla.training.folder import BEST

    there = set(list_variants(stages.data_dir))
    found: set[_Key] = set()
    checkpoint = trained.output_dir / BEST
    for settings in evaluations(study, stages, (checkpoint,)):
        keys = [key for key, _ in _keys(settings, trained.model)]
        if {key[0] for key in keys} <= there:
            conditions = planned_conditions(settings, checkpoint)
            found |= {
                key
                for key, condition in zip(keys, conditions, strict=True)
                if prediction_path(study.results_dir, condition).exists()
            }
    return found
