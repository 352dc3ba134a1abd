"""What is said of an epoch: a line for people, events for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from limla.errors import MissingDependencyError


@contextmanager
def tensorboard_events(folder: Path | None, epochs_done: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that writes a history row for TensorBoard into `folder`, or does nothing where that is None.

    Raises `MissingDependencyError` when tensorboard is not installed.
    """
    if folder is None:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "--tensorboard needs the package 'tensorboard': pip install 'limla[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def write(row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                part, _, rest = name.partition("_")
                tag = f"{rest}/{part}" if part in ("train", "val") else f"speed/{name}"
                writer.add_scalar(tag, value, int(row["epoch"]))
        writer.flush()

    with closing(writer):
        yield write


def epoch_line(row: dict[str, float], epochs: int, is_best: bool) -> str:
    """A row of history.csv in one line."""
    attacked = ""
    if "val_robust_loss" in row:
        attacked = f"attacked loss {row['val_robust_loss']:.4f}, accuracy {row['val_robust_accuracy']:.3f}; "
    return (
        f"epoch {int(row['epoch'])}/{epochs}: "
        f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.3f}; "
        f"val loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.3f}, F1 {row['val_f1_macro']:.3f}; {attacked}"
        f"{row['images_per_s']:.0f} images/s{' (best so far)' if is_best else ''}"
    )
