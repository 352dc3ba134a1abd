"""The one loop in which loader, attack, model and task meet."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limla.attacks.base import Attack
from limla.errors import DataError, SettingsError
from limla.evaluation.models import EvaluatedModel, TestedData, check_models, model_sources
from limla.evaluation.pictures import PictureFolder, choose_keys
from limla.evaluation.settings import EvaluateSettings, build_attacks, caution, read_variants
from limla.files import TEMPORARY_SUFFIX, canonical_json, exclusive, remove_unfinished
from limla.loaders.base import Loader, LoaderSettings, open_loader
from limla.manifest import Manifest, check_one_source, library_versions, verify_shards
from limla.models.device import choose_device
from limla.models.victim import Victim
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
    _check_alone()
    manifests = read_variants(settings)
    attacks = build_attacks(settings)
    device = str(choose_device(settings.device))
    first = next(iter(manifests.values()))
    source_ids = check_one_source([settings.data_dir / name for name in manifests], list(manifests.values()))
    data = TestedData(first.dataset, first.class_names, source_ids)
    sources = model_sources(settings, device, data.class_names)
    check_models(sources, data, progress)
    for line in filter(None, map(caution, attacks)):
        progress.say(line)
    cells: list[CellResult] = []
    with exact_float32():
        for source in sources:
            model = EvaluatedModel(source, device, progress)
            for variant, manifest in manifests.items():
                cells += _evaluate_variant(settings, model, variant, manifest, attacks, progress)
    result = EvaluateResult(settings.results_dir, tuple(cells))
    if result.num_skipped:
        progress.say(f"{result.num_skipped} of {len(cells)} cells were there already and are kept")
    return result


def _check_alone() -> None:
    """Raise `SettingsError` under torchrun: every process would compute, and write, the same cells."""
    num_processes = os.environ.get("WORLD_SIZE", "1")
    if num_processes not in ("", "1"):
        raise SettingsError(
            f"limla evaluate runs in one process, and torchrun started {num_processes} (WORLD_SIZE): start it without "
            "torchrun; to use several GPUs, give each command its own --checkpoint and --device"
        )


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
    model: EvaluatedModel,
    variant: str,
    manifest: Manifest,
    attacks: Sequence[Attack],
    progress: Progress,
) -> list[CellResult]:
    """All attacks on one variant in one pass over its images; only the cells that are not there yet."""
    folder = settings.data_dir / variant
    loader_settings = LoaderSettings(
        preprocessing=model.info.preprocessing,
        batch_size=settings.batch_size,
        device=model.device,
        verify_contents=False,  # checked below, and only if there is work
    )
    with closing(open_loader(settings.loader, [folder], settings.split, loader_settings)) as loader:
        conditions = [_condition(settings, model, manifest, attack, loader) for attack in attacks]
        finished: dict[Condition, CellResult] = {}
        if _to_do(settings.results_dir, conditions):
            settings.results_dir.mkdir(parents=True, exist_ok=True)
            title = f"{model.info.model} ({model.info.train_quality}) on {variant}"
            lock = settings.results_dir / f".{model.checkpoint_id}-{variant}.lock"
            with exclusive(lock, f"the evaluation of {title}"):
                cells = [
                    _Cell(attack, condition, PictureFolder(settings.results_dir, condition))
                    for attack, condition in zip(attacks, conditions, strict=True)
                    # looked up again: another process may have finished it before the lock was ours
                    if _to_do(settings.results_dir, [condition])
                ]
                if cells:
                    finished = _evaluate_cells(
                        settings, model, manifest, folder, loader, cells, title, progress
                    )
    return [
        finished.get(condition, CellResult(condition, manifest.num_samples(settings.split), False))
        for condition in conditions
    ]


def _to_do(results_dir: Path, conditions: Sequence[Condition]) -> list[Condition]:
    return [condition for condition in conditions if not prediction_path(results_dir, condition).exists()]


def _evaluate_cells(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    manifest: Manifest,
    folder: Path,
    loader: Loader,
    cells: list[_Cell],
    title: str,
    progress: Progress,
) -> dict[Condition, CellResult]:
    """Compute the cells of one variant in one pass and write them."""
    num_samples = manifest.num_samples(settings.split)
    verify_shards(folder, manifest, settings.split, contents=settings.verify)
    chosen = choose_keys(folder, manifest, settings.split, settings.num_pictures)
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
    return finished


def _clear_leftovers(results_dir: Path, cell: _Cell) -> None:
    """Remove what a killed run left half-written of this cell; other processes may be writing other cells."""
    path = prediction_path(results_dir, cell.condition)
    for leftover in path.parent.glob(f"{path.name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    remove_unfinished(cell.pictures.folder)


def _one_pass(
    settings: EvaluateSettings,
    model: EvaluatedModel,
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
    settings: EvaluateSettings, model: EvaluatedModel, manifest: Manifest, attack: Attack, loader: Loader
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


def _append_timing(results_dir: Path, cell: CellResult, model: EvaluatedModel) -> None:
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
