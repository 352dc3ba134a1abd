"""One pass over the data: train, or measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from limla.errors import DataError, SettingsError
from limla.metrics import classification_scores
from limla.tasks.base import Judgement, Task
from limla.types import Batch
from limla.world import World


class Totals:
    """Confusion counts and loss of a pass; exact under any division of the data over processes."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num_classes = num_classes
        self._counts = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
        # float64 is what the sum of a million losses needs, and every device that limla trains on has it
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, judged: Judgement, labels: Tensor) -> None:
        """Add one batch; no synchronisation with a GPU."""
        cells = labels * self._num_classes + judged.predictions
        self._counts.scatter_add_(0, cells, torch.ones_like(cells))
        self._loss += judged.losses.sum(dtype=torch.float64)

    def metrics(self, world: World, prefix: str) -> dict[str, float]:
        """loss (mean, nats), accuracy, precision_macro, recall_macro, f1_macro over all processes, prefixed."""
        counts, loss = world.sum(self._counts.clone()), world.sum(self._loss.clone())
        confusion = counts.cpu().numpy().reshape(self._num_classes, self._num_classes)
        found = {"loss": float(loss) / int(confusion.sum()), **asdict(classification_scores(confusion))}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def num_samples(self, world: World) -> int:
        """Samples over all processes."""
        return int(world.sum(self._counts.sum()))


@dataclass
class Learner:
    """Everything that one step changes or needs.

    Attributes:
        model: the model itself; `wrapped` is what training calls (DDP around it, or the same).
        scaler: of the loss, with AMP only.
    """

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    scaler: torch.amp.GradScaler | None
    frozen_norms: tuple[nn.Module, ...] = ()

    def images(self, batch: Batch) -> Tensor:
        """The batch's images in NHWC memory layout: faster on GPUs, and for MobileNetV2 on a CPU too."""
        return batch.images.contiguous(memory_format=torch.channels_last)

    def set_training(self) -> None:
        """Training mode, but for the norms of a frozen backbone, whose statistics stay as they are."""
        self.wrapped.train()
        for norm in self.frozen_norms:
            norm.eval()

    def step(self, batch: Batch) -> Judgement:
        """One step of the optimizer; returns what the model said before it."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch.images.device.type, torch.float16, enabled=self.scaler is not None):
            outputs = self.wrapped(self.images(batch))
        if not isinstance(outputs, Tensor):
            raise SettingsError(
                f"the model returns a {type(outputs).__name__} in training mode: it must return (N, classes) logits"
            )
        loss = self.task.losses(outputs, batch.labels).mean()
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return self.task.judge(outputs, batch.labels)

    def judge(self, batch: Batch) -> Judgement:
        """What the model says of a batch, in the mode it is in."""
        return self.task.judge(self.model(self.images(batch)), batch.labels)


Change: TypeAlias = Callable[[Batch, int], Batch]
"""(batch, its number in the pass) → the batch to take in its place: labels and number of images stay."""


def train_pass(
    learner: Learner,
    batches: Iterable[Batch],
    totals: Totals,
    advance: Callable[[int], None],
    change: Change | None = None,
) -> None:
    """One epoch of steps; `totals` takes what the model said of each image just before it learned from it."""
    learner.set_training()
    for number, batch in enumerate(without_lone_samples(batches)):
        taken = batch if change is None else change(batch, number)
        totals.add(learner.step(taken), taken.labels)
        advance(len(batch.keys))


@torch.no_grad()
def measure_pass(
    learner: Learner,
    batches: Iterable[Batch],
    totals: Totals,
    advance: Callable[[int], None],
    robust: tuple[Totals, Change] | None = None,
) -> None:
    """Judge every image in eval mode, float32: as it is, and with `robust` as changed by it too."""
    learner.model.eval()
    for number, batch in enumerate(batches):
        totals.add(learner.judge(batch), batch.labels)
        if robust is not None:
            robust_totals, change = robust
            robust_totals.add(learner.judge(change(batch, number)), batch.labels)
        advance(len(batch.keys))


def without_lone_samples(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, with a last one of a single image put together with the one before it.

    Batch norm cannot learn from one image (torch raises where the feature map is 1×1), and dropping it would
    leave the image out of the epoch. An only batch of one image passes as it is.
    """
    waiting: Batch | None = None
    for batch in batches:
        if waiting is None:
            waiting = batch
        elif (
            len(batch.keys) == 1
            and len(waiting.keys) > 1
            and batch.images.shape[1:] == waiting.images.shape[1:]
        ):
            waiting = Batch(
                waiting.keys + batch.keys,
                torch.cat([waiting.images, batch.images]),
                torch.cat([waiting.labels, batch.labels]),
            )
        else:
            yield waiting
            waiting = batch
    if waiting is not None:
        yield waiting


def norms_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """The layers that keep running statistics of batches."""
    return tuple(layer for layer in model.modules() if getattr(layer, "track_running_stats", False))


def check_lone_samples(model: nn.Module, num_samples: int, batch_size: int) -> None:
    """Raise when batch norm would meet a batch of one image."""
    learning = [layer for layer in norms_of(model) if any(p.requires_grad for p in layer.parameters())]
    if learning and batch_size == 1:
        raise SettingsError("batch size 1: batch norm cannot learn from one image; choose at least 2")
    if learning and num_samples == 1:
        raise DataError("one training image per process: batch norm cannot learn from it; pack more images")
