"""A whole study in one call: pack → re-encode → train → evaluate → report, skipping what is done.

Every stage leaves its result on disk and knows by itself what is complete, so an interrupted study goes on
where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from limla.errors import DataError
from limla.manifest import SOURCE, read_manifest, variant_name
from limla.progress import SILENT, Progress
from limla.study import Study


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


def run(study: Study, progress: Progress = SILENT) -> RunResult:
    """Carry out a study.

    Raises a `LimlaError` for input or settings that a stage refuses; what is complete is kept.
    """
    seconds: dict[str, float] = {}

    def timed(stage: str, started: float) -> None:
        seconds[stage] = time.monotonic() - started

    started = time.monotonic()
    _pack(study, progress)
    timed("pack", started)
    started = time.monotonic()
    _reencode(study, progress)
    timed("reencode", started)
    started = time.monotonic()
    checkpoints = _train(study, progress)
    timed("train", started)
    started = time.monotonic()
    results_dir = _evaluate(study, checkpoints, progress)
    timed("evaluate", started)
    started = time.monotonic()
    report_path = _report(study, results_dir)
    timed("report", started)
    return RunResult(report_path, checkpoints, results_dir, seconds)


def _pack(study: Study, progress: Progress) -> None:
    from limla.packing import PackSettings, pack

    if study.raw is None:
        try:
            read_manifest(study.data_dir / SOURCE)
        except DataError as error:
            raise DataError(f"{error}; or name the folder of photos as 'raw' in the study") from error
        return
    plan = study.split
    settings = PackSettings(seed=plan.seed, train=plan.train, val=plan.val, test=plan.test)
    pack(study.raw, study.data_dir, settings, progress)


def _reencode(study: Study, progress: Progress) -> None:
    from limla.reencoding import ReencodeSettings, reencode

    settings = ReencodeSettings(
        codec=study.codec, qualities=study.qualities, subsampling=study.subsampling, measure=study.measure
    )
    reencode(study.data_dir, settings, progress)


def train_set_name(codec: str, qualities: tuple[int | None, ...]) -> str:
    """The folder name of a training set: "source", "jpeg-q10", "source+jpeg-q10"."""
    return "+".join(SOURCE if quality is None else variant_name(codec, quality) for quality in qualities)


def _train(study: Study, progress: Progress) -> tuple[Path, ...]:
    from limla.training import TrainSettings, train

    plan = study.training
    jobs = [
        (model, seed, qualities)
        for model in study.models
        for seed in study.seeds
        for qualities in study.train_sets()
    ]
    checkpoints: list[Path] = []
    for number, (model, seed, qualities) in enumerate(jobs, start=1):
        name = train_set_name(study.codec, qualities)
        progress.say(f"model {number} of {len(jobs)}: {model} trained on {name}, seed {seed}")
        folder_name = f"{model.replace(':', '.')}-seed{seed}-{name}"
        settings = TrainSettings(
            data_dir=study.data_dir,
            codec=study.codec,
            qualities=qualities,
            model=model,
            output_dir=study.output_dir / "models" / folder_name,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            patience=plan.patience,
            min_delta=plan.min_delta,
            weights=plan.weights,
            freeze_backbone=plan.freeze_backbone,
            augment=plan.augment,
            seed=seed,
            preprocessing=study.preprocessing(),
            loader=study.loader,
            device=study.device,
            results_csv=study.output_dir / "models" / "results.csv",
        )
        checkpoints.append(train(settings, progress).best_checkpoint)
    return tuple(checkpoints)


def _evaluate(study: Study, checkpoints: tuple[Path, ...], progress: Progress) -> Path:
    from limla.evaluation import EvaluateSettings, evaluate

    plan = study.evaluation
    results_dir = study.output_dir / "results"
    settings = EvaluateSettings(
        data_dir=study.data_dir,
        checkpoints=checkpoints,
        codec=study.codec,
        qualities=study.test_qualities(),
        attacks=plan.attacks,
        eps=plan.eps,
        steps=plan.steps,
        alpha=plan.alpha,
        results_dir=results_dir,
        split=plan.split,
        loader=study.loader,
        batch_size=plan.batch_size,
        device=study.device,
    )
    evaluate(settings, progress)
    return results_dir


def _report(study: Study, results_dir: Path) -> Path:
    from limla.reporting import report

    return report(results_dir, study.data_dir, study.output_dir / "report.html")
