"""What a study's settings alone do not say: attacks, device, loader, splits and models. Writes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from limla.errors import DataError, LimlaError, SettingsError
from limla.manifest import SOURCE, read_manifest
from limla.running.stages import DatasetStages, evaluations
from limla.study import Study, StudyFile


def check(study: Study, stages: Sequence[DatasetStages], file: StudyFile) -> None:
    """Check everything that can be wrong before any work starts.

    Raises a `LimlaError`, which names the line of the study file where one entry is at fault.
    """
    from limla.evaluation.grid import plan_cells
    from limla.models.device import choose_device
    from limla.registry import LOADERS

    with_line = _Located(file)
    with with_line.at("evaluation"):
        for settings in evaluations(study, stages[0], (Path("later"),)):
            plan_cells(settings)
    with with_line.at("device"):
        choose_device(study.device)
    if study.loader != "auto":
        with with_line.at("loader"):
            LOADERS.load(study.loader)
    for place, one in enumerate(stages):
        with with_line.at("datasets", place):
            num_classes = _check_photos(study, one)
        _check_models(study, num_classes, with_line)


class _Located:
    """Puts the line of a study file before the message of an error."""

    def __init__(self, file: StudyFile) -> None:
        self._file = file
        self._path: tuple[str | int, ...] = ()

    def at(self, *path: str | int) -> _Located:
        """For a `with` statement: errors inside are about this entry."""
        self._path = path
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LimlaError) and self._file.text:
            raise type(error)(f"{self._file.at(*self._path)}: {error}") from error


def _check_photos(study: Study, stages: DatasetStages) -> int:
    """Check that every split in use is going to hold images; returns the number of classes."""
    from limla.packing.discovery import discover
    from limla.packing.splitting import plan

    raw = stages.dataset.raw
    if raw is None:
        try:
            manifest = read_manifest(stages.data_dir / SOURCE)
        except DataError as error:
            raise DataError(f"{error}; or name the folder of photos as 'raw' in the study") from error
        check_splits(study, stages, manifest.splits(), manifest.settings.get("layout") == "split folders")
        return len(manifest.class_names)
    found = discover(raw)
    planned, _ = plan(found, stages.pack)
    check_splits(study, stages, planned.splits(), found.layout == "split folders")
    return len(found.class_names)


def check_splits(study: Study, stages: DatasetStages, there: Collection[str], is_split: bool) -> None:
    """Raise `DataError` for a split that the study needs and that holds no image."""
    tested = study.evaluation.split
    raw = stages.dataset.raw
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
        again = "" if raw else f" and pack the photos again (remove {stages.data_dir} first)"
        where = raw or stages.data_dir / SOURCE
        raise DataError(f"{where}: no images for the split '{split}', which {purpose} needs: {remedy}{again}")


def _check_models(study: Study, num_classes: int, with_line: _Located) -> None:
    """Build each model once with each of its weights: a wrong name, file or image size shows here or nowhere."""
    import torch

    from limla.models.base import build_model, canonical_name

    names: list[str] = []
    for place, model in enumerate(study.models):
        with with_line.at("models", place):
            names.append(canonical_name(model))
            if names.count(names[-1]) > 1:
                raise SettingsError(f"models names an entry twice ({model}): name each once")
    image_size = study.image_size if study.resize == "crop" else None
    plans = dict.fromkeys(
        (entry.plan.weights, entry.plan.freeze_backbone) for entry in study.train_conditions()
    )
    with torch.random.fork_rng(devices=[]):
        for place, name in enumerate(names):
            for weights, freeze_backbone in plans:
                with with_line.at("models", place):
                    build_model(name, num_classes, weights, freeze_backbone, image_size=image_size)
