"""The files of a training run: settings, history, checkpoints, and the line in the table of runs."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from limla.codecs import build_codec, codec_name
from limla.errors import DataError, SettingsError
from limla.files import content_id, file_sha256, write_bytes, write_json
from limla.manifest import Manifest, check_settings, library_versions
from limla.training.settings import STANDARD, TrainResult, TrainSettings, adversary_text, quality_text

BEST = "best.pt"
LAST = "last.pt"
INFO = "info.json"
HISTORY = "history.csv"
CLASSES = "classes.json"
RESULTS = "results.csv"
_LIBRARIES = ("torch", "torchvision", "numpy", "simplejpeg", "pillow")
_METRICS = ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro")
METRIC_NAMES = tuple(f"{part}_{name}" for part in ("train", "val") for name in _METRICS)
"""The columns of history.csv that hold metrics."""
ROBUST_NAMES = ("val_robust_loss", "val_robust_accuracy")
"""Those that a run against an adversary has besides: of the attacked images."""


@dataclass
class State:
    """How far a run is; plain values, part of last.pt.

    Attributes:
        epoch: epochs done.
        best_epoch, best_loss: with the lowest deciding loss so far (nats).
        reference_loss: the loss that the next one must beat by min-delta to reset the patience.
        epochs_without: epochs since it was last beaten.
        history: one row per epoch: epoch, METRIC_NAMES, perhaps ROBUST_NAMES, seconds, images_per_s.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    reference_loss: float = float("inf")
    epochs_without: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def record(self, row: dict[str, float], min_delta: float, deciding: str = "val_loss") -> bool:
        """Take in an epoch; returns whether its validation loss, the entry `deciding`, is the lowest so far."""
        self.epoch += 1
        assert row["epoch"] == self.epoch
        self.history.append(row)
        loss = row[deciding]
        if loss < self.reference_loss - min_delta:
            self.reference_loss = loss
            self.epochs_without = 0
        else:
            self.epochs_without += 1
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = self.epoch, loss
            return True
        return False

    def is_over(self, settings: TrainSettings) -> bool:
        """Whether no epoch is left or patience has run out."""
        return self.epoch >= settings.epochs or self.epochs_without >= settings.patience

    def as_dict(self) -> dict[str, Any]:
        """As plain values; `State(**values)` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> State:
        """The inverse of `as_dict`; other entries are ignored. Raises `KeyError` for a missing one."""
        return cls(**{item.name: values[item.name] for item in fields(cls)})


def decisive_settings(
    settings: TrainSettings, model: str, manifests: Sequence[Manifest], world_size: int, device_type: str
) -> dict[str, Any]:
    """Every setting that decides the weights, by the name of its option; equal ones may continue a run.

    What was added after the first runs stands there only when it is asked for: a run without it keeps its identity.
    """
    added: dict[str, Any] = {}
    if settings.random_qualities:
        qualities = quality_text(settings.random_qualities)
        added["random-quality"] = {
            "codec": codec_name(settings.codec), "qualities": qualities, **build_codec(settings.codec).settings()
        }  # fmt: skip
    if settings.adversary is not None:
        added["adversary"] = adversary_text(settings.adversary)
    return {
        "data": {
            path.name: [manifest.data_id("train"), manifest.data_id("val")]
            for path, manifest in zip(settings.folders(), manifests, strict=True)
        },
        "codec": settings.train_codec,
        "quality": settings.train_quality,
        "model": model,
        "epochs": settings.epochs,
        "batch-size": settings.batch_size,
        "learning-rate": settings.learning_rate,
        "patience": settings.patience,
        "min-delta": settings.min_delta,
        "seed": settings.seed,
        "weights": _weights_id(settings.weights),
        "freeze-backbone": settings.freeze_backbone,
        "mean": list(settings.mean) if settings.mean else None,
        "std": list(settings.std) if settings.std else None,
        "image-size": settings.preprocessing.describe(),
        "loader": settings.loader,
        "augment": settings.augment,
        "amp": settings.amp,
        "device": device_type,
        "processes": world_size,
        **added,
    }


def _weights_id(weights: str | Path) -> str:
    if str(weights) in ("none", "imagenet"):
        return str(weights)
    path = Path(weights)
    if not path.is_file():
        raise SettingsError(f"{path}: no such file of weights; choose none, imagenet or an existing file")
    return f"sha256 {file_sha256(path)[:16]}"


_RUN_COLUMNS = ("model", "codec", "quality", "seed", "weights", "learning-rate", "batch-size")
_ADDED_COLUMNS = {"method": STANDARD, **dict.fromkeys(ROBUST_NAMES, "")}
"""Columns that older tables lack, and what stands there for their lines."""
RESULT_COLUMNS = (
    *("run", "dataset", *_RUN_COLUMNS, "epochs_run", "best_epoch", *METRIC_NAMES),
    *("seconds", "checkpoint_id", "checkpoint", *_ADDED_COLUMNS),
)
"""The columns of results.csv."""


class RunFolder:
    """The output folder of one run. Every file in it is whole at any time."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.path / BEST

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch, with all that is needed to go on."""
        return self.path / LAST

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What is measured in each epoch."""
        return METRIC_NAMES + ROBUST_NAMES if "adversary" in self.settings else METRIC_NAMES

    def check(self) -> dict[str, Any]:
        """What info.json says, {} for a new folder.

        Raises `SettingsError` naming the settings that differ, or for checkpoints of another origin.
        """
        path = self.path / INFO
        if not path.is_file():
            for name in (BEST, LAST):
                if (self.path / name).exists():
                    raise SettingsError(
                        f"{self.path}: holds a {name} but no {INFO}, so it is no run of limla's; "
                        "choose another output folder"
                    )
            return {}
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            existing = info["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove the folder and train again") from error
        check_settings(self.path, existing, self.settings)
        return info

    def finished(self, info: dict[str, Any]) -> TrainResult | None:
        """The result of a run that info.json calls finished; raises `DataError` when its best.pt is not there."""
        if not info.get("finished"):
            return None
        if not self.best.is_file() or file_sha256(self.best)[:16] != info["checkpoint_id"]:
            raise DataError(
                f"{self.best}: missing or altered since the run finished; remove {self.path} and train again"
            )
        return TrainResult(self.best, info["best"], info["epochs_run"])

    def check_table(self, results_csv: Path | None) -> None:
        """Raise `DataError` when the table that `finish` adds to is none of training runs."""
        read_lines(results_csv or self.path / RESULTS, RESULT_COLUMNS)

    def start(self, class_names: Sequence[str]) -> None:
        """Write what is known before the first epoch."""
        write_json(self.path / CLASSES, {name: index for index, name in enumerate(class_names)})
        write_json(self.path / INFO, self._info(finished=False))

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write history.csv: a line per epoch."""
        columns = ["epoch", *self.metric_names, "seconds", "images_per_s"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_bytes(self.path / HISTORY, text.getvalue().encode())

    def best_metrics(self, state: State) -> dict[str, float]:
        """The epoch with the lowest deciding loss, and what was measured in it."""
        best = state.history[state.best_epoch - 1]
        return {"epoch": state.best_epoch, **{name: best[name] for name in self.metric_names}}

    def finish(self, state: State, dataset: str, method: str, results_csv: Path | None) -> TrainResult:
        """Add the run to the table of runs and mark it finished; doing it twice changes nothing more."""
        best = self.best_metrics(state)
        checkpoint_id = file_sha256(self.best)[:16]
        seconds = round(sum(row["seconds"] for row in state.history), 3)
        line = {
            "run": content_id(self.settings),
            "dataset": dataset,
            **{name: self.settings[name] for name in _RUN_COLUMNS},
            "epochs_run": state.epoch,
            "best_epoch": state.best_epoch,
            **{name: best[name] for name in METRIC_NAMES},
            "seconds": seconds,
            "checkpoint_id": checkpoint_id,
            "checkpoint": str(self.best.resolve()),
            "method": method,
            **{name: best.get(name, "") for name in ROBUST_NAMES},
        }
        assert tuple(line) == RESULT_COLUMNS
        append_line(results_csv or self.path / RESULTS, line, same=("run", "checkpoint"))
        info = self._info(finished=True)
        info |= {"best": best, "epochs_run": state.epoch, "seconds": seconds, "checkpoint_id": checkpoint_id}
        write_json(self.path / INFO, info)
        return TrainResult(self.best, best, state.epoch)

    def _info(self, finished: bool) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "versions": library_versions(_LIBRARIES),
            "finished": finished,
        }


def append_line(path: Path, line: dict[str, Any], same: tuple[str, ...]) -> None:
    """Add a line to a CSV table that several processes may share; a reader sees the old table or the new one.

    A line that equals this one in the columns `same` is replaced. Raises `DataError` when the table has other
    columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        rows = read_lines(path, tuple(line))
        new = {name: str(value) for name, value in line.items()}
        rows = [row for row in rows if any(row[name] != new[name] for name in same)]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, new])
        write_bytes(path, text.getvalue().encode())


def read_lines(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The lines of a CSV table; none where there is no file. Raises `DataError` when it has other columns.

    Columns that runs did not always have may be missing; their lines say what was meant.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise DataError(f"{path}: not a CSV table ({error}); choose another file") from error
    there = list(reader.fieldnames or ())
    added = {name: value for name, value in _ADDED_COLUMNS.items() if name in columns and name not in there}
    if there != [name for name in columns if name not in added]:
        raise DataError(f"{path}: not a table of training runs; choose another file or remove it")
    return [{**row, **added} for row in rows]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for and hold the lock of a folder; it goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
