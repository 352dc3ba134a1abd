"""How far a study is, and about how long the rest takes: read from what lies on disk, nothing is computed."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limla.errors import DataError
from limla.manifest import SOURCE, list_variants, variant_name
from limla.results import Condition, prediction_path
from limla.running.stages import DatasetStages, dataset_stages, evaluations, placed
from limla.study import Study


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
    from limla.evaluation.grid import plan_cells

    stages = dataset_stages(study)
    wanted = [variant_name(*variant) for variant in study.variants()]
    there = sum(name in list_variants(one.data_dir) for one in stages for name in wanted)
    folders = [_trained(study, one) for one in stages]
    finished = [folder for group in folders for folder, is_done in group if is_done]
    num_models = sum(len(one.train) for one in stages)
    done = 0
    left: list[tuple[Any, ...]] = []
    total = 0
    for one, group in zip(stages, folders, strict=True):
        for settings in evaluations(study, one, (Path("later"),)):
            plans = plan_cells(settings)
            kinds = [
                (plan.attack.name, plan.attack.num_gradients, plan.threat, plan.defence is not None)
                for plan in plans
            ]
            per_model = kinds * len(settings.qualities)
            total += len(per_model) * len(one.train)
            trained = [folder / "best.pt" for folder, is_done in group if is_done]
            left += per_model * (len(one.train) - len(trained))
            for is_there, kind in _cells(study, one, trained, settings.codec, per_model):
                done += is_there
                left += [] if is_there else [kind]
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


def _cells(
    study: Study,
    stages: DatasetStages,
    checkpoints: Sequence[Path],
    codec: str,
    kinds: Sequence[tuple[Any, ...]],
) -> list[tuple[bool, tuple[Any, ...]]]:
    """Of every cell of trained models, whether it is there, and its kind."""
    from limla.evaluation import planned_conditions

    found: list[tuple[bool, tuple[Any, ...]]] = []
    for checkpoint in checkpoints:
        settings = next(one for one in evaluations(study, stages, (checkpoint,)) if one.codec == codec)
        missing = [
            quality
            for quality in settings.qualities
            if variant_name(SOURCE if quality is None else codec, quality) not in list_variants(stages.data_dir)
        ]
        conditions: list[Condition] = [] if missing else planned_conditions(settings, checkpoint)
        states = [prediction_path(study.results_dir, condition).exists() for condition in conditions]
        found += zip(states or [False] * len(kinds), kinds, strict=True)
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


def _cell_seconds(left: Sequence[tuple[Any, ...]], timings: Sequence[dict[str, Any]]) -> float | None:
    """The mean time of computed cells of the same attack, threat and defence; for others, by their gradients."""
    if not left:
        return 0.0
    known: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    seconds, passes = 0.0, 0
    for line in timings:
        kind = (line["attack"], line.get("num_gradients"), line.get("threat", ""), bool(line.get("defence")))
        known[kind].append(line["seconds_computing"])
        seconds += line["seconds_computing"]
        passes += (line.get("num_gradients") or 0) + 1
    if not passes:
        return None
    return sum(
        statistics.mean(known[kind]) if kind in known else (kind[1] + 1) * seconds / passes for kind in left
    )
