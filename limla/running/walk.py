"""Carry out a study: pack → re-encode → train → evaluate → report.

Every stage's settings are made and checked before the first stage begins. Every stage leaves its result on disk and
knows by itself what is complete, so an interrupted study goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limla.codecs import codec_name
from limla.engines import build_engine
from limla.manifest import SOURCE, variant_name
from limla.progress import SILENT, Progress
from limla.running.checks import check, check_splits
from limla.running.stages import DatasetStages, dataset_stages, evaluations, placed
from limla.study import Study, StudyFile

if TYPE_CHECKING:
    from limla.engines.base import Engine
    from limla.training import TrainSettings


@dataclass(frozen=True)
class RunResult:
    """What a study left on disk.

    Attributes:
        report: the HTML file.
        checkpoints: best checkpoint of each model, in the order trained.
        results_dir: prediction rows.
        seconds: wall time of each stage that ran.
    """

    report: Path
    checkpoints: tuple[Path, ...]
    results_dir: Path
    seconds: dict[str, float]


def run(study: Study, progress: Progress = SILENT, file: StudyFile | None = None) -> RunResult:
    """Carry out a study; `file` is where it was read from, for messages.

    Raises a `LimlaError` before anything is written for settings that a stage refuses, models that cannot be
    built and splits that would be empty; during the work for damaged data. What is complete is kept.
    """
    file = file or StudyFile("study")
    with file.naming_lines():
        stages = dataset_stages(study)
    check(study, stages, file)
    engine = build_engine(study.engine, None, study.master, progress)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - started

    for one in stages:
        with timed("pack"):
            _pack(study, one, progress, engine)
        with timed("reencode"):
            from limla.reencoding import reencode

            for settings in one.reencode:
                reencode(one.data_dir, settings, progress, engine)
    checkpoints: list[Path] = []
    for one in stages:
        with timed("train"):
            trained = _train(placed(study, one), progress)
        checkpoints += trained
        with timed("evaluate"):
            from limla.evaluation import evaluate

            for evaluation in evaluations(study, one, trained):
                evaluate(evaluation, progress)
    with timed("report"):
        write_study_report(study, progress)
    return RunResult(study.report, tuple(checkpoints), study.results_dir, seconds)


def write_study_report(study: Study, progress: Progress = SILENT) -> Path:
    """The report of what a study has computed so far; returns the HTML file. Raises as `limla.reporting.report`."""
    from limla.reporting import report

    data_dirs = [study.data_dir(dataset) for dataset in study.datasets]
    return report(study.results_dir, data_dirs, study.report, progress, study.margin / 100)


def _pack(study: Study, stages: DatasetStages, progress: Progress, engine: Engine) -> None:
    from limla.packing import pack

    if stages.dataset.raw is None:
        return
    manifest = pack(stages.dataset.raw, stages.data_dir, stages.pack, progress, engine).manifest
    # once more: quarantined files may have been all there were
    check_splits(study, stages, manifest.splits(), manifest.settings["layout"] == "split folders")


def _train(trainings: Sequence[TrainSettings], progress: Progress) -> tuple[Path, ...]:
    from limla.training import train

    checkpoints: list[Path] = []
    for number, settings in enumerate(trainings, start=1):
        name = train_set_name(settings.codec, settings.qualities)
        method = "" if settings.train_method == "standard" else f" ({settings.train_method})"
        progress.say(
            f"model {number} of {len(trainings)}: {settings.model} trained on {name}{method}, seed {settings.seed}"
        )
        checkpoints.append(train(settings, progress).best_checkpoint)
    return tuple(checkpoints)


def train_set_name(codec: str, qualities: tuple[int | None, ...]) -> str:
    """What a model is trained on, in words: "source", "jpeg-q10", "source+jpeg-q10"."""
    return "+".join(
        SOURCE if quality is None else variant_name(codec_name(codec), quality) for quality in qualities
    )
