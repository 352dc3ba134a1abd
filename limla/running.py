"""A whole study in one call: pack → re-encode → train → evaluate → report, skipping what is done.

Every stage's settings are made and checked before the first stage begins. Every stage leaves its result on disk and
knows by itself what is complete, so an interrupted study goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from limla.engines import build_engine
from limla.errors import DataError, SettingsError
from limla.manifest import SOURCE, read_manifest, variant_name
from limla.progress import SILENT, Progress
from limla.study import Study

if TYPE_CHECKING:
    from limla.engines.base import Engine
    from limla.evaluation import EvaluateSettings
    from limla.packing import PackSettings
    from limla.reencoding import ReencodeSettings
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


@dataclass(frozen=True)
class StageSettings:
    """What each stage of a study is told.

    Attributes:
        pack: used when the study names photos.
        reencode, evaluate: one call each; `evaluate.checkpoints` are where the models are going to be.
        train: one for each model, in order.
    """

    pack: PackSettings
    reencode: ReencodeSettings
    train: tuple[TrainSettings, ...]
    evaluate: EvaluateSettings


def run(study: Study, progress: Progress = SILENT) -> RunResult:
    """Carry out a study.

    Raises a `LimlaError` before anything is written for settings that a stage refuses, models that cannot be
    built and splits that would be empty; during the work for damaged data. What is complete is kept.
    """
    stages = stage_settings(study)
    _check(study, stages)
    engine = build_engine(study.engine, None, study.master, progress)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[stage] = time.monotonic() - started

    with timed("pack"):
        _pack(study, stages.pack, progress, engine)
    with timed("reencode"):
        from limla.reencoding import reencode

        reencode(study.data_dir, stages.reencode, progress, engine)
    with timed("train"):
        checkpoints = _train(stages.train, progress)
    with timed("evaluate"):
        from limla.evaluation import evaluate

        evaluate(replace(stages.evaluate, checkpoints=checkpoints), progress)
    with timed("report"):
        from limla.reporting import report

        results_dir = stages.evaluate.results_dir
        report_path = report(results_dir, study.data_dir, study.output_dir / "report.html")
    return RunResult(report_path, checkpoints, results_dir, seconds)


def stage_settings(study: Study) -> StageSettings:
    """Every stage's settings, each of which checks its own.

    Raises `SettingsError` for the first name or number that a stage refuses.
    """
    from limla.evaluation import EvaluateSettings
    from limla.packing import PackSettings
    from limla.reencoding import ReencodeSettings

    train = tuple(
        _train_settings(study, model, seed, qualities)
        for model in study.models
        for seed in study.seeds
        for qualities in study.train_sets()
    )
    split, plan = study.split, study.evaluation
    return StageSettings(
        pack=PackSettings(
            seed=split.seed,
            train=split.train,
            val=split.val,
            test=split.test,
            val_from_train=split.val_from_train,
        ),
        reencode=ReencodeSettings(
            codec=study.codec, qualities=study.qualities, subsampling=study.subsampling, measure=study.measure
        ),
        train=train,
        evaluate=EvaluateSettings(
            data_dir=study.data_dir,
            checkpoints=tuple(settings.output_dir / "best.pt" for settings in train),
            codec=study.codec,
            qualities=study.test_qualities(),
            attacks=plan.attacks,
            eps=plan.eps,
            steps=plan.steps,
            alpha=plan.alpha,
            results_dir=study.output_dir / "results",
            split=plan.split,
            loader=study.loader,
            batch_size=plan.batch_size,
            device=study.device,
        ),
    )


def _train_settings(study: Study, model: str, seed: int, qualities: tuple[int | None, ...]) -> TrainSettings:
    from limla.training import TrainSettings

    plan = study.training
    folder_name = f"{model.replace(':', '.')}-seed{seed}-{train_set_name(study.codec, qualities)}"
    return TrainSettings(
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


def train_set_name(codec: str, qualities: tuple[int | None, ...]) -> str:
    """The folder name of a training set: "source", "jpeg-q10", "source+jpeg-q10"."""
    return "+".join(SOURCE if quality is None else variant_name(codec, quality) for quality in qualities)


def _check(study: Study, stages: StageSettings) -> None:
    """Check what the settings alone do not say: attacks, device, loader, splits and models. Writes nothing."""
    from limla.evaluation.grid import build_attacks
    from limla.models.device import choose_device
    from limla.registry import LOADERS

    build_attacks(stages.evaluate)
    choose_device(study.device)
    if study.loader != "auto":
        LOADERS.load(study.loader)
    _check_models(study, _check_photos(study, stages.pack))


def _check_photos(study: Study, settings: PackSettings) -> int:
    """Check that every split in use is going to hold images; returns the number of classes."""
    from limla.packing.discovery import discover
    from limla.packing.splitting import plan

    if study.raw is None:
        try:
            manifest = read_manifest(study.data_dir / SOURCE)
        except DataError as error:
            raise DataError(f"{error}; or name the folder of photos as 'raw' in the study") from error
        _check_splits(study, manifest.splits(), manifest.settings.get("layout") == "split folders")
        return len(manifest.class_names)
    found = discover(study.raw)
    planned, _ = plan(found, settings)
    _check_splits(study, planned.splits(), found.layout == "split folders")
    return len(found.class_names)


def _check_splits(study: Study, there: Collection[str], is_split: bool) -> None:
    """Raise `DataError` for a split that the study needs and that holds no image."""
    tested = study.evaluation.split
    for split, purpose in (("train", "training"), ("val", "training"), (tested, "evaluation")):
        if split in there:
            continue
        if not is_split:
            remedy = f"give {split} a share in the study's [split], or bring more photos"
        else:
            other = {
                "val": ", or set val_from_train = 0.1 in the study's [split]",
                "test": ', or set split = "val" in the study\'s [evaluation]',
            }.get(split, "")
            remedy = f"add a {split}/ folder{other}, or merge the split folders into plain class folders"
        again = "" if study.raw else f" and pack the photos again (remove {study.data_dir} first)"
        where = study.raw or study.data_dir / SOURCE
        raise DataError(f"{where}: no images for the split '{split}', which {purpose} needs: {remedy}{again}")


def _check_models(study: Study, num_classes: int) -> None:
    """Build each model once, with its weights: a wrong name, file or image size shows here or nowhere."""
    import torch

    from limla.models.base import build_model, canonical_name

    names = [canonical_name(model) for model in study.models]
    for name, model in zip(names, study.models, strict=True):
        if names.count(name) > 1:
            raise SettingsError(f"models names an entry twice ({model}): name each once")
    image_size = study.image_size if study.resize == "crop" else None
    plan = study.training
    with torch.random.fork_rng(devices=[]):
        for name in names:
            build_model(name, num_classes, plan.weights, plan.freeze_backbone, image_size=image_size)


def _pack(study: Study, settings: PackSettings, progress: Progress, engine: Engine) -> None:
    from limla.packing import pack

    if study.raw is None:
        return
    manifest = pack(study.raw, study.data_dir, settings, progress, engine).manifest
    # once more: quarantined files may have been all there were
    _check_splits(study, manifest.splits(), manifest.settings["layout"] == "split folders")


def _train(trainings: tuple[TrainSettings, ...], progress: Progress) -> tuple[Path, ...]:
    from limla.training import train

    checkpoints: list[Path] = []
    for number, settings in enumerate(trainings, start=1):
        name = train_set_name(settings.codec, settings.qualities)
        progress.say(
            f"model {number} of {len(trainings)}: {settings.model} trained on {name}, seed {settings.seed}"
        )
        checkpoints.append(train(settings, progress).best_checkpoint)
    return tuple(checkpoints)
