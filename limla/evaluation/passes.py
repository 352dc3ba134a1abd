"""The one loop in which loader, attack, model and task meet: a pass over one variant's images.

Under torchrun, process r of N takes the batches r, r + N, … of the whole pass. After every round of batches the first
process gathers what all of them found and puts it in the order of the batches, so its rows are those of a
single process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limla.defences import Defended, attackers_view
from limla.errors import DataError, SettingsError
from limla.evaluation.grid import CellPlan, grouped
from limla.evaluation.models import EvaluatedModel
from limla.evaluation.pictures import to_uint8
from limla.evaluation.settings import EvaluateSettings
from limla.models.victim import Victim
from limla.results import Condition, PredictionColumns, PredictionRow
from limla.tasks.base import Judgement
from limla.tasks.classification import Classification
from limla.types import Batch, Image
from limla.world import World

_ROUND_SECONDS = 1.0
"""About how long the processes work between two meetings; an error in one ends the others at the next."""
_LONGEST_ROUND = 256


@dataclass
class Cell:
    """A cell that is being computed.

    Attributes:
        plan: attack, threat model and defence.
        rows, pictures: in the first process those of all processes, in the order of the batches; in the others none.
        seconds_computing: attack and model, in this process; an attack that several cells share counts for the first.
    """

    plan: CellPlan
    condition: Condition
    rows: PredictionColumns = field(default_factory=PredictionColumns)
    pictures: list[tuple[PredictionRow, Image]] = field(default_factory=list)
    seconds_computing: float = 0.0


@dataclass(frozen=True)
class _Found:
    """What one cell found in one batch.

    Attributes:
        batch_number: of all batches of the pass, in every process.
        cell_number: index of the cell.
        pictures: the rows whose input is kept, with that input.
    """

    batch_number: int
    cell_number: int
    rows: list[PredictionRow]
    pictures: list[tuple[PredictionRow, Image]]


@dataclass(frozen=True)
class PassSeconds:
    """Where the time of a pass went, in the process that took longest.

    Attributes:
        loading: wait for the loader's batches, the first one included; decoding that goes on beside the model costs
            nothing here.
        computing: of each cell, attack and model.
    """

    loading: float
    computing: tuple[float, ...]


class _Feed:
    """The batches of a pass, and the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[tuple[Batch, ...]]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def take(self) -> tuple[Batch, ...] | None:
        """The next batch of each stream, ready on their device; None after the last one."""
        started = time.perf_counter()
        batches = next(self._batches, None)
        if batches is not None and batches[0].images.is_cuda:
            # decoding that is still under way on the GPU is loading, not computing
            torch.cuda.synchronize(batches[0].images.device)
        self.seconds += time.perf_counter() - started
        return batches


def run_pass(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    batches: Iterator[tuple[Batch, ...]],
    num_batches: int,
    cells: Sequence[Cell],
    chosen: frozenset[str],
    world: World,
    advance: Callable[[int], None],
) -> PassSeconds:
    """Run every cell on every batch.

    Args:
        batches: of this process: a batch of each stream, all of the same images.
        num_batches: of each stream, over all processes.
        chosen: keys of the images whose inputs are kept.
        advance: told of images × cells done, in the first process those of all.

    Raises `DataError` for outputs that are not finite and for a loader that gives more batches than `num_batches`.
    """
    feed = _Feed(batches)
    taken = feed.take()
    if not model.is_prepared:
        # one example for all: which speed-ups suit the model is found out on it
        example = world.broadcast(taken[0].images[:2].cpu() if world.is_first and taken else None)
        assert example is not None, "the first process has the first batch"
        model.prepare(example)
        _check_same_speedups(model, world)
    num_steps = -(-num_batches // world.world_size)
    step, length = 0, 1
    while step < num_steps:
        length = world.broadcast(min(length, num_steps - step))
        started = time.perf_counter()
        found: list[_Found] = []
        for number in range(step, step + length):
            if taken is not None:
                found += _run_batch(
                    settings, model, cells, taken, number * world.world_size + world.rank, chosen, advance
                )
                taken = feed.take()
        _collect(cells, world, found, advance)
        step += length
        seconds = max(time.perf_counter() - started, 1e-6)
        length = max(1, min(int(length * _ROUND_SECONDS / seconds), 2 * length, _LONGEST_ROUND))
    if taken is not None:
        raise DataError(
            f"{settings.data_dir}: the loader gives more images of split '{settings.split}' than the manifest "
            "lists; remove the folder and make it again"
        )
    times = world.gather(PassSeconds(feed.seconds, tuple(cell.seconds_computing for cell in cells)))
    return world.broadcast(max(times, key=lambda one: one.loading + sum(one.computing)) if times else None)  # pyright: ignore[reportReturnType]


def _check_same_speedups(model: EvaluatedModel, world: World) -> None:
    """Raise `SettingsError` when another process left out a speed-up that this one uses: its rows would differ.

    Each finds out on its own CPU or GPU which of them suit the model.
    """
    victim = model.victim
    found = {
        "batch norms fused into convolutions": victim.fused_layers,
        "channels-last": victim.channels_last,
        "frozen convolutions": victim.frozen_layers,
        "batches in parts": victim.splits,
    }
    for number, (others, notes) in enumerate(world.gather((found, victim.notes))):
        for name, value in found.items():
            if others[name] != value:
                why = "; ".join(dict.fromkeys([*notes, *victim.notes]))
                raise SettingsError(
                    f"{model.where}: its speed-up '{name}' is {others[name]} in process {number} and {value} in "
                    f"process 0 ({why}), so rows would depend on who computes them: start all on CPUs or GPUs of one "
                    "kind"
                )


def _run_batch(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    cells: Sequence[Cell],
    batches: Sequence[Batch],
    number: int,
    chosen: frozenset[str],
    advance: Callable[[int], None],
) -> list[_Found]:
    """Every cell on one batch; cells that share their attacked images attack once."""
    seed = batch_seed(settings.seed, number)
    found: list[_Found] = []
    for places in grouped([cell.plan for cell in cells]):
        started = time.perf_counter()
        plan = cells[places[0]].plan
        batch = batches[plan.stream]
        view = attackers_view(model.victim, plan.view, plan.threat)
        attacked = plan.attack.run(view, batch.images, batch.labels, seed)
        targets = plan.attack.targets(batch.labels, model.info.num_classes, seed)
        cells[places[0]].seconds_computing += time.perf_counter() - started
        with closing(_behind_defences([cells[place].plan for place in places], attacked, seed)) as behind:
            for place in places:
                started = time.perf_counter()
                rows, shown = _judge(settings, model, batch, next(behind), attacked, targets)
                # the rows are on the CPU, so the device's work is done when the clock stops
                cells[place].seconds_computing += time.perf_counter() - started
                pictures = [
                    (rows[index], to_uint8(shown[index]))
                    for index, key in enumerate(batch.keys)
                    if key in chosen
                ]
                found.append(_Found(number, place, rows, pictures))
                advance(len(rows))
    return found


def _behind_defences(
    plans: Sequence[CellPlan], attacked: Tensor, seed: int
) -> Generator[Defended | None, None, None]:
    """What the defence of each plan makes of the attacked images; None without one.

    The next plan's codec works while the caller judges what this one made, and no further ahead, for memory's sake.
    """
    with ThreadPoolExecutor(1, "limla-defence") as beside:

        def start(plan: CellPlan) -> Future[Defended] | None:
            return None if plan.defence is None else beside.submit(plan.defence.apply, attacked, seed)

        waiting = start(plans[0])
        for plan in plans[1:]:
            defended = None if waiting is None else waiting.result()
            waiting = start(plan)
            yield defended
        yield None if waiting is None else waiting.result()


def _judge(
    settings: EvaluateSettings,
    model: EvaluatedModel,
    batch: Batch,
    defended: Defended | None,
    attacked: Tensor,
    targets: Tensor | None,
) -> tuple[list[PredictionRow], Tensor]:
    """The rows of one cell of a batch, and the images that the model was given."""
    shown, num_bytes = (attacked, None) if defended is None else defended
    logits = _logits(model.victim, shown, settings.precision)
    rows = _rows(batch, Classification().judge(logits, batch.labels), targets, num_bytes)
    if not bool(torch.isfinite(logits).all()):
        raise DataError(
            f"{model.where}: its outputs are NaN or infinite in the batch that begins with "
            f"'{batch.keys[0]}'; its weights have diverged: evaluate another checkpoint"
        )
    return rows, shown


def _collect(cells: Sequence[Cell], world: World, found: list[_Found], advance: Callable[[int], None]) -> None:
    """Put the rows that all processes found in a round into the first one's cells, in the order of the batches."""
    gathered = world.gather(found)
    advance(sum(len(one.rows) for others in gathered[1:] for one in others))
    for one in sorted((one for part in gathered for one in part), key=lambda one: one.batch_number):
        cells[one.cell_number].rows.extend(one.rows)
        cells[one.cell_number].pictures += one.pictures


def batch_seed(seed: int, batch_number: int) -> int:
    """The seed of one batch's attack, in [0, 2**63): it depends on nothing but the two numbers."""
    digest = hashlib.sha256(f"{seed}/{batch_number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _logits(victim: Victim, images: Tensor, precision: str) -> Tensor:
    """(N, C) float32 logits."""
    with (
        torch.no_grad(),
        torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        return victim(images).float()


def _rows(
    batch: Batch, judgement: Judgement, targets: Tensor | None, num_bytes: Sequence[int] | None
) -> list[PredictionRow]:
    nothing = [None] * len(batch.keys)
    columns = (judgement.predictions, judgement.correct, judgement.losses, judgement.confidences)
    values = zip(
        batch.keys,
        batch.labels.tolist(),
        *(column.tolist() for column in columns),
        nothing if targets is None else targets.tolist(),
        nothing if num_bytes is None else num_bytes,
        strict=True,
    )
    return [PredictionRow(*row) for row in values]
