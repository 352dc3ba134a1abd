"""The one loop in which loader, attack, model and task meet."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limla.attacks.base import Attack
from limla.errors import DataError
from limla.evaluation.pictures import PictureFolder, choose_keys
from limla.evaluation.settings import (
    EvaluateSettings,
    UserModel,
    build_attacks,
    caution,
    check_class_names,
    read_variants,
)
from limla.files import TEMPORARY_SUFFIX, canonical_json, content_id, remove_unfinished
from limla.loaders.base import Loader, LoaderSettings, open_loader
from limla.manifest import Manifest, library_versions, verify_shards
from limla.models.checkpoint import LoadedModel, load_checkpoint, load_user_model
from limla.models.device import choose_device
from limla.models.victim import Victim, prepare_victim
from limla.progress import SILENT, Progress
from limla.results import Condition, PredictionRow, prediction_path, write_predictions
from limla.tasks.base import Judgement
from limla.tasks.classification import Classification
from limla.types import Batch

TIMINGS = "timings.jsonl"


@dataclass(frozen=True)
class CellResult:
    """One cell of the grid.

    Attributes:
        condition: what was evaluated.
        num_samples: images.
        computed: False when its rows were there already.
        seconds_loading: wait for the loader's batches; a pass is shared by the cells of a variant.
        seconds_computing: attack and model.
    """

    condition: Condition
    num_samples: int
    computed: bool
    seconds_loading: float = 0.0
    seconds_computing: float = 0.0

    @property
    def images_per_s(self) -> float:
        """Images per second of attack and model, loading included; 0 for a cell that was there already."""
        seconds = self.seconds_loading + self.seconds_computing
        return self.num_samples / seconds if self.computed else 0.0


@dataclass(frozen=True)
class EvaluateResult:
    """What `evaluate` left on disk.

    Attributes:
        results_dir: rows under `predictions/`, pictures under `samples/`.
        cells: every cell of the grid, by checkpoint, variant and attack.
    """

    results_dir: Path
    cells: tuple[CellResult, ...]

    @property
    def num_skipped(self) -> int:
        """Cells whose rows were there already."""
        return sum(not cell.computed for cell in self.cells)


def evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> EvaluateResult:
    """Evaluate every cell of the grid checkpoints × test qualities × attacks.

    Each cell becomes one file of PredictionRows under `results_dir/predictions`; a cell whose file exists is
    skipped, so an interrupted evaluation goes on where it was. The attacks of one variant share one pass over
    its images.

    Raises a `LimlaError` before any work for names, parameters, variants or classes that do not fit, and
    during it for damaged shards or a model whose outputs are not finite.
    """
    manifests = read_variants(settings)
    attacks = build_attacks(settings)
    device = str(choose_device(settings.device))
    class_names = next(iter(manifests.values())).class_names
    sources = _model_sources(settings, device, class_names)
    for line in (_check_models(sources, settings, class_names), *map(caution, attacks)):
        if line:
            progress.say(line)
    cells: list[CellResult] = []
    with exact_float32():
        for where, load in sources:
            model = _EvaluatedModel(where, load(), device, progress)
            for variant, manifest in manifests.items():
                cells += _evaluate_variant(settings, model, variant, manifest, attacks, progress)
    result = EvaluateResult(settings.results_dir, tuple(cells))
    if result.num_skipped:
        progress.say(f"{result.num_skipped} of {len(cells)} cells were there already and are kept")
    return result


def batch_seed(seed: int, batch_number: int) -> int:
    """The seed of one batch's attack, in [0, 2**63): it depends on nothing but the two numbers."""
    digest = hashlib.sha256(f"{seed}/{batch_number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def exact_float32() -> Iterator[None]:
    """ "float32" means it, on a GPU too: no TF32 in convolutions, and deterministic algorithms of cuDNN.

    So a cell that is computed again gives the same rows, and a GPU's rows stay near a CPU's.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


_Source = tuple[str, Callable[[], LoadedModel]]


def _model_sources(settings: EvaluateSettings, device: str, class_names: tuple[str, ...]) -> list[_Source]:
    """What each model is called in messages, and how to load it."""
    sources: list[_Source] = [
        (str(path), lambda path=path: load_checkpoint(path, device, settings.own_model))
        for path in dict.fromkeys(settings.checkpoints)
    ]
    user = settings.user_model
    if user is not None:
        sources.append((user.spec, lambda: _load_user(user, device, class_names)))
    return sources


def _load_user(user: UserModel, device: str, class_names: tuple[str, ...]) -> LoadedModel:
    """A user's model; its id also covers the normalisation, which is no part of its weights file."""
    loaded = load_user_model(
        user.spec, user.weights, class_names, user.preprocessing, user.mean, user.std, device
    )
    info = loaded.info
    return replace(loaded, checkpoint_id=content_id([loaded.checkpoint_id, info.mean, info.std]))


def _check_models(sources: list[_Source], settings: EvaluateSettings, class_names: tuple[str, ...]) -> str:
    """Load each model once before any work, so that a mistake in the last one does not wait for the others.

    Returns a line about what is taken for granted; "" when there is nothing to say.
    """
    for where, load in sources:
        check_class_names(where, load().info.class_names, class_names)
    user = settings.user_model
    if user is None:
        return ""
    normalised = "" if user.mean and user.std else ", and that it was trained with ImageNet's mean and std"
    return (
        f"{user.spec}: limla takes for granted that its outputs are, in this order, "
        f"{', '.join(class_names[:5])}{', …' if len(class_names) > 5 else ''}{normalised}"
    )


class _EvaluatedModel:
    """A loaded model and its fast copy, which is prepared on the first batch."""

    def __init__(self, where: str, loaded: LoadedModel, device: str, progress: Progress) -> None:
        self.where = where
        self.info = loaded.info
        self.checkpoint_id = loaded.checkpoint_id
        self.device = device
        self._loaded: LoadedModel | None = loaded
        self._victim: Victim | None = None
        self._progress = progress

    def victim(self, images: Tensor) -> Victim:
        """The fast copy; its speed-ups are checked on two of `images` when it is made."""
        if self._victim is None:
            assert self._loaded is not None
            self._victim = prepare_victim(self._loaded.model, self.device, images[:2])
            self._loaded = None  # the copy is all that is needed from here
            for note in self._victim.notes:
                self._progress.say(f"{self.where}: runs without a speed-up: {note}")
        return self._victim


@dataclass
class _Cell:
    """A cell that is being computed."""

    attack: Attack
    condition: Condition
    pictures: PictureFolder
    rows: list[PredictionRow] = field(default_factory=list)
    seconds_computing: float = 0.0


def _evaluate_variant(
    settings: EvaluateSettings,
    model: _EvaluatedModel,
    variant: str,
    manifest: Manifest,
    attacks: Sequence[Attack],
    progress: Progress,
) -> list[CellResult]:
    """All attacks on one variant in one pass over its images; only the cells that are not there yet."""
    folder = settings.data_dir / variant
    num_samples = manifest.num_samples(settings.split)
    loader_settings = LoaderSettings(
        preprocessing=model.info.preprocessing,
        batch_size=settings.batch_size,
        device=model.device,
        verify_contents=False,  # checked below, and only if there is work
    )
    with closing(open_loader(settings.loader, [folder], settings.split, loader_settings)) as loader:
        conditions = [_condition(settings, model, manifest, attack, loader) for attack in attacks]
        cells = [
            _Cell(attack, condition, PictureFolder(settings.results_dir, condition))
            for attack, condition in zip(attacks, conditions, strict=True)
            if not prediction_path(settings.results_dir, condition).exists()
        ]
        seconds_loading = 0.0
        if cells:
            verify_shards(folder, manifest, settings.split, contents=settings.verify)
            chosen = choose_keys(folder, manifest, settings.split, settings.num_pictures)
            title = f"{model.info.model} ({model.info.train_quality}) on {variant}"
            with progress.stage(title, num_samples * len(cells)) as advance:
                seconds_loading = _one_pass(settings, model, loader, cells, chosen, advance)
    finished: dict[Condition, CellResult] = {}
    for cell in cells:
        if len(cell.rows) != num_samples:
            raise DataError(
                f"{folder}: the loader gave {len(cell.rows)} images of split '{settings.split}', but the "
                f"manifest says {num_samples}; make the folder again"
            )
        _clear_leftovers(settings.results_dir, cell)
        cell.pictures.finish()
        write_predictions(settings.results_dir, cell.condition, cell.rows)
        done = CellResult(cell.condition, num_samples, True, seconds_loading, cell.seconds_computing)
        finished[cell.condition] = done
        _append_timing(settings.results_dir, done, model)
    return [finished.get(condition, CellResult(condition, num_samples, False)) for condition in conditions]


def _clear_leftovers(results_dir: Path, cell: _Cell) -> None:
    """Remove what a killed run left half-written of this cell; other processes may be writing other cells."""
    path = prediction_path(results_dir, cell.condition)
    for leftover in path.parent.glob(f"{path.name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    remove_unfinished(cell.pictures.folder)


def _one_pass(
    settings: EvaluateSettings,
    model: _EvaluatedModel,
    loader: Loader,
    cells: list[_Cell],
    chosen: frozenset[str],
    advance: Callable[[int], None],
) -> float:
    """Run every cell on every batch; returns the seconds spent waiting for batches."""
    task = Classification()
    seconds_loading = 0.0
    batches = iter(loader)
    number = 0
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        seconds_loading += time.perf_counter() - started
        if batch is None:
            return seconds_loading
        victim = model.victim(batch.images)
        for cell in cells:
            started = time.perf_counter()
            attacked = cell.attack.run(victim, batch.images, batch.labels, batch_seed(settings.seed, number))
            logits = _logits(victim, attacked, settings.precision)
            rows = _rows(batch, task.judge(logits, batch.labels))
            # the rows are on the CPU, so the device's work is done when the clock stops
            cell.seconds_computing += time.perf_counter() - started
            if not bool(torch.isfinite(logits).all()):
                raise DataError(
                    f"{model.where}: its outputs are NaN or infinite in the batch that begins with "
                    f"'{batch.keys[0]}'; its weights have diverged: evaluate another checkpoint"
                )
            cell.rows += rows
            _keep_pictures(cell, rows, attacked, batch, chosen)
            advance(len(rows))
        number += 1


def _logits(victim: Victim, images: Tensor, precision: str) -> Tensor:
    """(N, C) float32 logits."""
    with (
        torch.no_grad(),
        torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        return victim(images).float()


def _rows(batch: Batch, judgement: Judgement) -> list[PredictionRow]:
    columns = (judgement.predictions, judgement.correct, judgement.losses, judgement.confidences)
    values = zip(batch.keys, batch.labels.tolist(), *(column.tolist() for column in columns), strict=True)
    return [PredictionRow(*row) for row in values]


def _keep_pictures(
    cell: _Cell, rows: Sequence[PredictionRow], images: Tensor, batch: Batch, chosen: frozenset[str]
) -> None:
    for place, key in enumerate(batch.keys):
        if key in chosen:
            cell.pictures.add(rows[place], images[place])


def _condition(
    settings: EvaluateSettings, model: _EvaluatedModel, manifest: Manifest, attack: Attack, loader: Loader
) -> Condition:
    info = model.info
    parameters: dict[str, Any] = attack.settings()
    if attack.uses_seed:
        parameters["seed"] = settings.seed
    return Condition(
        dataset=manifest.dataset,
        data_id=manifest.data_id(settings.split),
        split=settings.split,
        task=Classification.name,
        model=info.model,
        checkpoint_id=model.checkpoint_id,
        seed=info.seed,
        train_codec=info.train_codec,
        train_quality=info.train_quality,
        test_codec=manifest.codec,
        test_quality=manifest.quality,
        preprocessing=info.preprocessing.describe(),
        attack=attack.name,
        norm=attack.norm,
        eps=attack.eps,
        attack_settings=canonical_json(parameters),
        decoder=loader.decoder,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )


def _append_timing(results_dir: Path, cell: CellResult, model: _EvaluatedModel) -> None:
    """One line about how fast a cell was and where; a single write, so lines of several runs never mix."""
    condition = cell.condition
    line = {
        "cell_id": condition.cell_id,
        "model": condition.model,
        "train_quality": condition.train_quality,
        "test_codec": condition.test_codec,
        "test_quality": condition.test_quality,
        "attack": condition.attack,
        "eps": condition.eps,
        "num_samples": cell.num_samples,
        "images_per_s": round(cell.images_per_s, 3),
        "seconds_loading": round(cell.seconds_loading, 3),
        "seconds_computing": round(cell.seconds_computing, 3),
        "device": torch.cuda.get_device_name(model.device) if model.device != "cpu" else platform.machine(),
        "num_threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": library_versions(["torch", "torchvision", "torchattacks"]),
    }
    descriptor = os.open(results_dir / TIMINGS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
    finally:
        os.close(descriptor)
