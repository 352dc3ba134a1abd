"""What each stage of a study is told, dataset by dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from limla.files import content_id
from limla.manifest import SOURCE, read_manifest
from limla.paths import AnyPath
from limla.plans import NO_ATTACK, parse_attack
from limla.qualities import parse_qualities
from limla.study import DatasetPlan, Study, TrainCondition, about_entry

if TYPE_CHECKING:
    from limla.evaluation import EvaluateSettings
    from limla.packing import PackSettings
    from limla.reencoding import ReencodeSettings
    from limla.training import TrainSettings


@dataclass(frozen=True)
class DatasetStages:
    """What each stage is told about one dataset.

    Attributes:
        dataset: photos or shards.
        data_dir: where its shards are, or go.
        pack: used when the study names photos.
        reencode: one for each codec.
        train: one for each model, seed and training condition, in that order; `output_dir` is the folder of all models
            until the data are there (see `placed`).
    """

    dataset: DatasetPlan
    data_dir: AnyPath
    pack: PackSettings
    reencode: tuple[ReencodeSettings, ...]
    train: tuple[TrainSettings, ...]


def dataset_stages(study: Study) -> tuple[DatasetStages, ...]:
    """Every stage's settings, each of which checks its own.

    Raises `EntryError` for the first name or number that a stage refuses.
    """
    found: list[DatasetStages] = []
    for dataset in study.datasets:
        data_dir = study.data_dir(dataset)
        found.append(
            DatasetStages(
                dataset=dataset,
                data_dir=data_dir,
                pack=_pack_settings(study),
                reencode=tuple(_reencodings(study)),
                train=tuple(_trainings(study, data_dir)),
            )
        )
    return tuple(found)


def _pack_settings(study: Study) -> PackSettings:
    from limla.packing import PackSettings

    with about_entry("split"):
        return PackSettings(**vars(study.split))


def _reencodings(study: Study) -> Iterator[ReencodeSettings]:
    from limla.reencoding import ReencodeSettings

    for place, codec in enumerate(study.codecs):
        with about_entry("codecs", place):
            found = ReencodeSettings(
                codec=codec.text,
                qualities=codec.qualities,
                measure=study.measure,
            )
        yield found


def _trainings(study: Study, data_dir: AnyPath) -> Iterator[TrainSettings]:
    if study.train:
        # what the entries of `train` have in common is at fault before they are
        with about_entry("training"):
            common = TrainCondition(((SOURCE, None),), study.training)
            _train_settings(study, data_dir, study.models[0], study.seeds[0], common)
    for model in study.models:
        for seed in study.seeds:
            for place, condition in enumerate(study.train_conditions()):
                with about_entry(*(("train", place) if study.train else ("training",))):
                    found = _train_settings(study, data_dir, model, seed, condition)
                yield found


def _train_settings(
    study: Study, data_dir: AnyPath, model: str, seed: int, condition: TrainCondition
) -> TrainSettings:
    from limla.training import TrainSettings

    plan = condition.plan
    return TrainSettings(
        data_dir=data_dir,
        codec=study.codec_text(condition.codec),
        qualities=condition.qualities,
        random_qualities=parse_qualities(plan.random_quality, allow_source=True) if plan.random_quality else (),
        adversary=parse_attack(plan.adversary) if plan.adversary else None,
        model=model,
        output_dir=study.output_dir / "models",
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


def placed(study: Study, stages: DatasetStages) -> tuple[TrainSettings, ...]:
    """The trainings of a dataset with their folders, whose names end in a hash of everything that decides the weights.

    So another setting, or other data, trains a new model beside the old one, and equal ones find theirs. Raises
    `DataError` where the data are not there yet.
    """
    from limla.models.base import canonical_name
    from limla.models.device import choose_device
    from limla.training.folder import decisive_settings

    device_type = choose_device(study.device).type
    names = [condition.label for condition in study.train_conditions()]
    several = len(study.datasets) > 1
    found: list[TrainSettings] = []
    for number, settings in enumerate(stages.train):
        manifests = [read_manifest(folder) for folder in settings.folders()]
        model = canonical_name(settings.model)
        decides = content_id(decisive_settings(settings, model, manifests, 1, device_type))[:8]
        label = f"{settings.model.replace(':', '.')}-seed{settings.seed}-{names[number % len(names)]}-{decides}"
        folder = settings.output_dir / (f"{stages.dataset.label}-{label}" if several else label)
        # a condition that was renamed finds its model under the old name
        there = sorted(settings.output_dir.glob(f"*-{decides}"))
        found.append(replace(settings, output_dir=there[0] if there else folder))
    return tuple(found)


def evaluations(
    study: Study, stages: DatasetStages, checkpoints: tuple[Path, ...]
) -> tuple[EvaluateSettings, ...]:
    """What is evaluated of each model: the variants with defences, those attacked without, then every one as it is.

    The cells without a defence belong to both where a variant stands in both; a cell that is there is not computed
    again. Defended ones come first, since attackers who do not know of a defence share the attack on the bare model.
    """
    from limla.evaluation import EvaluateSettings

    plan = study.evaluation
    found: list[EvaluateSettings] = []
    for wanted, attacks, defences in (
        (study.defended_variants(), plan.attacks or (NO_ATTACK,), plan.defences),
        (study.attacked_variants(), (*plan.attacks, *plan.undefended) or (NO_ATTACK,), ()),
        (study.test_variants(), (NO_ATTACK,), ()),
    ):
        for number, codec in enumerate(study.codecs):
            qualities = tuple(
                quality for name, quality in wanted if name == codec.name or (quality is None and number == 0)
            )
            if qualities:
                found.append(
                    EvaluateSettings(
                        data_dir=stages.data_dir,
                        checkpoints=checkpoints,
                        codec=codec.text,
                        qualities=qualities,
                        attacks=attacks,
                        eps=plan.eps,
                        steps=plan.steps,
                        alpha=plan.alpha,
                        defences=defences,
                        results_dir=study.results_dir,
                        split=plan.split,
                        loader=study.loader,
                        batch_size=plan.batch_size,
                        seed=plan.seed,
                        device=study.device,
                    )
                )
    return tuple(found)
