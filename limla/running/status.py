"""How far a study is, and about how long the rest takes: read from what lies on disk, nothing is computed."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from limla.errors import DataError
from limla.manifest import SOURCE, list_variants, variant_name
from limla.results import prediction_path
from limla.running.stages import DatasetStages, dataset_stages, evaluations, placed
from limla.study import Study

if TYPE_CHECKING:
    from limla.evaluation import EvaluateSettings

_Key: TypeAlias = tuple[str, str, str, float, str, str, str]
"""Variant, attack, norm, eps, the attack's other parameters, threat, defence."""
_Kind: TypeAlias = tuple[str, int, str, bool]
"""What the time of a cell depends on: attack, its gradients, threat, whether there is a defence."""


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
    stages = dataset_stages(study)
    wanted = [variant_name(*variant) for variant in study.variants()]
    there = sum(name in list_variants(one.data_dir) for one in stages for name in wanted)
    folders = [_trained(study, one) for one in stages]
    finished = [folder for group in folders for folder, is_done in group if is_done]
    num_models = sum(len(one.train) for one in stages)
    done, total = 0, 0
    left: list[_Kind] = []
    for one, group in zip(stages, folders, strict=True):
        kinds = _kinds(evaluations(study, one, (Path("later"),)))
        total += len(kinds) * len(one.train)
        trained = [folder / "best.pt" for folder, is_done in group if is_done]
        left += list(kinds.values()) * (len(one.train) - len(trained))
        for checkpoint in trained:
            finished_keys = _finished_cells(study, one, checkpoint)
            done += len(finished_keys)
            left += [kind for key, kind in kinds.items() if key not in finished_keys]
    timings = _read_timings(study.results_dir)
    return StudyStatus(
        Progressed("variants", there, len(wanted) * len(stages), None),
        Progressed("models", len(finished), num_models, _model_seconds(finished, num_models)),
        Progressed("cells", done, total, _cell_seconds(left, timings)),
    )


def _trained(study: Study, stages: DatasetStages) -> list[tuple[Path, bool]]:
    """The folder of every model, and whether it is trained; none where the data are not there yet."""
    if not all(
        SOURCE in list_variants(stages.data_dir) and name in list_variants(stages.data_dir)
        for name in (folder.name for settings in stages.train for folder in settings.folders())
    ):
        return []
    return [(settings.output_dir, _is_finished(settings.output_dir)) for settings in placed(study, stages)]


def _is_finished(folder: Path) -> bool:
    path = folder / "info.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("finished"))
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and run the study again") from error


def _keys(settings: EvaluateSettings) -> list[tuple[_Key, _Kind]]:
    """Every cell of one model in the order of `planned_conditions`: what tells it apart, and its kind."""
    from limla.evaluation.grid import plan_cells

    found: list[tuple[_Key, _Kind]] = []
    for quality in settings.qualities:
        for plan in plan_cells(settings):
            attack = plan.attack
            defence = "" if plan.defence is None else plan.defence.plan.label
            parameters = json.dumps(attack.settings(), sort_keys=True)
            variant = variant_name(SOURCE if quality is None else settings.codec, quality)
            key = (variant, attack.name, attack.norm, attack.eps, parameters, plan.threat, defence)
            found.append((key, (attack.name, attack.num_gradients, plan.threat, bool(defence))))
    return found


def _kinds(evaluated: Sequence[EvaluateSettings]) -> dict[_Key, _Kind]:
    return {key: kind for settings in evaluated for key, kind in _keys(settings)}


def _finished_cells(study: Study, stages: DatasetStages, checkpoint: Path) -> set[_Key]:
    from limla.evaluation import planned_conditions

    there = set(list_variants(stages.data_dir))
    found: set[_Key] = set()
    for settings in evaluations(study, stages, (checkpoint,)):
        keys = [key for key, _ in _keys(settings)]
        if {key[0] for key in keys} <= there:
            conditions = planned_conditions(settings, checkpoint)
            found |= {
                key
                for key, condition in zip(keys, conditions, strict=True)
                if prediction_path(study.results_dir, condition).exists()
            }
    return found


def _model_seconds(finished: Sequence[Path], num_models: int) -> float | None:
    """Models left × the mean time of those that are trained."""
    if len(finished) == num_models:
        return 0.0
    seconds: list[float] = []
    for folder in finished:
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            seconds.append(sum(float(row["seconds"]) for row in csv.DictReader(file)))
    return (num_models - len(finished)) * statistics.mean(seconds) if seconds else None


def _read_timings(results_dir: Path) -> list[dict[str, Any]]:
    from limla.evaluation import TIMINGS

    path = results_dir / TIMINGS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cell_seconds(left: Sequence[_Kind], timings: Sequence[dict[str, Any]]) -> float | None:
    """The mean time of computed cells of the same attack, threat and defence; for others, by their gradients."""
    if not left:
        return 0.0
    known: dict[_Kind, list[float]] = defaultdict(list)
    seconds, passes = 0.0, 0
    for line in timings:
        num_gradients = line.get("num_gradients", 0)
        known[line["attack"], num_gradients, line.get("threat", ""), bool(line.get("defence"))].append(
            line["seconds_computing"]
        )
        seconds += line["seconds_computing"]
        passes += num_gradients + 1
    if not passes:
        return None
    return sum(
        statistics.mean(known[kind]) if kind in known else (kind[1] + 1) * seconds / passes for kind in left
    )
