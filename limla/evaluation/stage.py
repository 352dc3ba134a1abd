"""Walk the grid: open each variant, find the cells that are not there yet, compute and write them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from limla.attacks.checks import caution
from limla.errors import DataError, SettingsError
from limla.evaluation.conditions import condition_of
from limla.evaluation.grid import CellPlan, of_each_stream, passes, plan_cells
from limla.evaluation.inputs import Inputs, Streams, inputs_of
from limla.evaluation.models import EvaluatedModel, TestedData, check_models, model_sources
from limla.evaluation.passes import Cell, run_pass
from limla.evaluation.pictures import PictureFolder, choose_keys
from limla.evaluation.settings import EvaluateSettings, read_variants
from limla.files import TEMPORARY_SUFFIX, exclusive, remove_unfinished
from limla.loaders.base import LoaderSettings
from limla.manifest import Manifest, check_one_source, library_versions, variant_name, verify_shards
from limla.models.device import choose_device
from limla.paths import AnyPath, is_remote
from limla.progress import SILENT, Progress
from limla.results import Condition, prediction_path, write_predictions
from limla.world import World, joined, torchrun_world

TIMINGS = "timings.jsonl"


@dataclass(frozen=True)
class CellResult:
    """One cell of the grid.

    Attributes:
        condition: what was evaluated.
        num_samples: images.
        computed: False when its rows were there already.
        seconds_loading: wait for the loader's batches, the first one included; a pass is shared by the cells of a
            variant. Of several processes (torchrun), the one that took longest.
        seconds_computing: attack and model, likewise; cells that share their attacked images count the attack once.
        pass_number: of the passes over the variant.
    """

    condition: Condition
    num_samples: int
    computed: bool
    seconds_loading: float = 0.0
    seconds_computing: float = 0.0
    pass_number: int = 0

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
        seconds_total: wall time of all of it. What is neither loading nor computing goes into opening models and
            shards, their checksums, and writing.
        seconds_loading: wait for the loaders' batches, each pass once.
        seconds_computing: attacks and models.
    """

    results_dir: Path
    cells: tuple[CellResult, ...]
    seconds_total: float = 0.0
    seconds_loading: float = 0.0
    seconds_computing: float = 0.0

    @property
    def num_skipped(self) -> int:
        """Cells whose rows were there already."""
        return sum(not cell.computed for cell in self.cells)


def evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> EvaluateResult:
    """Evaluate every cell of the grid checkpoints × test qualities × attacks.

    Each cell becomes one file of PredictionRows under `results_dir/predictions`; a cell whose file exists is
    skipped, so an interrupted evaluation goes on where it was. The attacks of one variant share one pass over
    its images.

    Under torchrun the processes share each pass. The first one decides what is to do and alone writes files, whose
    bytes are those of a single process; every process returns the same result.

    Raises a `LimlaError` before any work for names, parameters, variants or classes that do not fit, and
    during it for damaged shards, a model whose outputs are not finite, or another process that ended.
    """
    started = time.perf_counter()
    world = torchrun_world("cpu")
    if not world.is_first:
        progress = SILENT
    with joined(world, tensors=False), exact_float32():
        manifests = read_variants(settings)
        plans = plan_cells(settings)
        device = str(choose_device(settings.device, world.local_rank))
        first = next(iter(manifests.values()))
        folders = [settings.data_dir / name for name in manifests]
        source_ids = check_one_source(folders, list(manifests.values()))
        data = TestedData(first.dataset, first.class_names, source_ids)
        sources = model_sources(settings, device, data.class_names)
        check_models(sources, data, progress)
        for line in dict.fromkeys(filter(None, (caution(plan.attack) for plan in plans))):
            progress.say(line)
        cells: list[CellResult] = []
        loading = 0.0
        for source in sources:
            model = EvaluatedModel(source, device, progress)
            for inputs in inputs_of(settings, manifests):
                done = _evaluate_inputs(settings, model, inputs, plans, world, progress)
                loading += sum({cell.pass_number: cell.seconds_loading for cell in done}.values())
                cells += done
        computing = sum(cell.seconds_computing for cell in cells)
        total = time.perf_counter() - started
        result = world.broadcast(EvaluateResult(settings.results_dir, tuple(cells), total, loading, computing))
    if result.num_skipped:
        progress.say(f"{result.num_skipped} of {len(cells)} cells were there already and are kept")
    return result


@contextmanager
def exact_float32() -> Iterator[None]:
    """ "float32" means it, on a GPU too: no TF32 in convolutions, and deterministic algorithms of cuDNN.

    So a cell that is computed again gives the same rows, and a GPU's rows stay near a CPU's.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _evaluate_inputs(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    inputs: Inputs,
    plans: Sequence[CellPlan],
    world: World,
    progress: Progress,
) -> list[CellResult]:
    """All cells of some inputs, in as few passes over them as `passes` says; only those that are not there.

    The cells come stream by stream.
    """
    folder, manifest = settings.data_dir / inputs.variant, inputs.manifest
    num_samples = manifest.num_samples(settings.split)
    with closing(inputs.open(settings, _loader_settings(settings, model, folder, world))) as streams:
        plans = of_each_stream(plans, len(streams.origins))
        conditions = [
            condition_of(
                settings, model.info, model.checkpoint_id, manifest, plan, streams.origins[plan.stream]
            )
            for plan in plans
        ]
        _check_alike(conditions, world)
        finished: dict[Condition, CellResult] = {}
        if any(_to_do(settings, conditions, world)):
            title = f"{model.info.model} ({model.info.train_quality}) on {inputs.title(settings.codec)}"
            lock = settings.results_dir / f".{model.checkpoint_id}-{inputs.variant}.lock"
            with _held(lock, f"the evaluation of {title}", world):
                # looked up again: another command may have finished a cell before the lock was ours
                cells = _missing_cells(settings, plans, conditions, world)
                if cells:
                    # once per machine
                    verify_shards(
                        folder, manifest, settings.split, contents=settings.verify and world.local_rank == 0
                    )
                    world.wait()
                for number, part in enumerate(passes(list(cells), num_samples)):
                    finished |= _evaluate_cells(
                        settings,
                        model,
                        manifest,
                        streams,
                        number,
                        [cells[plan] for plan in part],
                        title,
                        world,
                        progress,
                    )
    return [
        finished.get(condition, CellResult(condition, num_samples, False))
        for plan, condition in sorted(zip(plans, conditions, strict=True), key=lambda pair: pair[0].stream)
    ]


def _loader_settings(
    settings: EvaluateSettings, model: EvaluatedModel, folder: AnyPath, world: World
) -> LoaderSettings:
    """How this process reads the shards in `folder`."""
    return LoaderSettings(
        preprocessing=model.info.preprocessing,
        batch_size=settings.batch_size,
        rank=world.rank,
        world_size=world.world_size,
        device=model.device,
        # local shards are checked by `_evaluate_inputs`, and only if there is work
        verify_contents=settings.verify and is_remote(folder),
        reading=settings.reading,
    )


def _check_alike(conditions: Sequence[Condition], world: World) -> None:
    """Raise `SettingsError` when another process has other data, another model or another decoder."""
    for number, others in enumerate(world.gather(list(conditions))):
        for mine, other in zip(conditions, others, strict=True):
            different = [name for name, value in vars(mine).items() if vars(other)[name] != value]
            if different:
                name = different[0]
                raise SettingsError(
                    f"process {number} sees another {name} ({vars(other)[name]}) than process 0 "
                    f"({vars(mine)[name]}): start all with the same options, on the same shards and checkpoints, "
                    "and with GPUs everywhere or nowhere"
                )


def _to_do(settings: EvaluateSettings, conditions: Sequence[Condition], world: World) -> list[bool]:
    """Which conditions have no rows yet; the first process looks, so that none disagrees."""
    paths = [prediction_path(settings.results_dir, condition) for condition in conditions]
    return world.broadcast([not path.exists() for path in paths] if world.is_first else [])


def _missing_cells(
    settings: EvaluateSettings, plans: Sequence[CellPlan], conditions: Sequence[Condition], world: World
) -> dict[CellPlan, Cell]:
    """The cells of the conditions without rows, by their plans."""
    wanted = _to_do(settings, conditions, world)
    return {
        plan: Cell(plan, condition)
        for plan, condition, is_wanted in zip(plans, conditions, wanted, strict=True)
        if is_wanted
    }


@contextmanager
def _held(lock: Path, what: str, world: World) -> Iterator[None]:
    """The first process holds the lock for all."""
    if world.is_first:
        lock.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(lock, what) if world.is_first else nullcontext():
        yield


def _evaluate_cells(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    manifest: Manifest,
    streams: Streams,
    pass_number: int,
    cells: list[Cell],
    title: str,
    world: World,
    progress: Progress,
) -> dict[Condition, CellResult]:
    """Compute some cells in one pass and write them; the pass makes only the streams that they need."""
    num_samples = manifest.num_samples(settings.split)
    folder = settings.data_dir / variant_name(manifest.codec, manifest.quality)
    chosen = choose_keys(folder, manifest, settings.split, settings.num_pictures)
    num_batches = -(-num_samples // settings.batch_size)
    with progress.stage(title, num_samples * len(cells)) as advance:
        needed = sorted({cell.plan.stream for cell in cells})
        for cell in cells:
            cell.plan = replace(cell.plan, stream=needed.index(cell.plan.stream))
        batches = streams.batches(needed)
        seconds = run_pass(settings, model, batches, num_batches, cells, chosen, world, advance)
    finished: dict[Condition, CellResult] = {}
    for cell, seconds_computing in zip(cells, seconds.computing, strict=True):
        done = CellResult(cell.condition, num_samples, True, seconds.loading, seconds_computing, pass_number)
        if world.is_first:
            if len(cell.rows) != num_samples:
                raise DataError(
                    f"{folder}: the loader gave {len(cell.rows)} images of split '{settings.split}', but the "
                    f"manifest says {num_samples}; remove the folder and make it again"
                )
            _write(settings.results_dir, cell)
            _append_timing(settings.results_dir, done, cell.plan.attack.num_gradients, model, world)
        finished[cell.condition] = done
    return finished


def _write(results_dir: Path, cell: Cell) -> None:
    """The pictures, then the rows, whose presence means that the cell is done."""
    pictures = PictureFolder(results_dir, cell.condition)
    _clear_leftovers(results_dir, cell.condition, pictures)
    for row, image in cell.pictures:
        pictures.add(row, image)
    pictures.finish()
    write_predictions(results_dir, cell.condition, cell.rows)


def _clear_leftovers(results_dir: Path, condition: Condition, pictures: PictureFolder) -> None:
    """Remove what a killed run left half-written of this cell; other commands may be writing other cells."""
    path = prediction_path(results_dir, condition)
    for leftover in path.parent.glob(f"{path.name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    remove_unfinished(pictures.folder)


def _append_timing(
    results_dir: Path, cell: CellResult, num_gradients: int, model: EvaluatedModel, world: World
) -> None:
    """One line about how fast a cell was and where; a single write, so lines of several runs never mix."""
    condition = cell.condition
    line = {
        "cell_id": condition.cell_id,
        "model": condition.model,
        "train_quality": condition.train_quality,
        "test_codec": condition.test_codec,
        "test_quality": condition.test_quality,
        "simulation": condition.simulation,
        "attack": condition.attack,
        "eps": condition.eps,
        "threat": condition.threat,
        "defence": f"{condition.defence_codec}:{condition.defence_quality}" if condition.defence_codec else "",
        "num_gradients": num_gradients,
        "num_samples": cell.num_samples,
        "images_per_s": round(cell.images_per_s, 3),
        "seconds_loading": round(cell.seconds_loading, 3),
        "seconds_computing": round(cell.seconds_computing, 3),
        "device": torch.cuda.get_device_name(model.device) if model.device != "cpu" else platform.machine(),
        "num_processes": world.world_size,
        "num_threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": library_versions(["torch", "torchvision", "torchattacks", "kornia"]),
    }
    descriptor = os.open(results_dir / TIMINGS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
    finally:
        os.close(descriptor)
