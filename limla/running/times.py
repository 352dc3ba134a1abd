"""About how long what is left of a study takes, from the times of what is done."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from limla.errors import DataError


class CellKind(NamedTuple):
    """What the time of a cell depends on, per image.

    Attributes:
        model: canonical name.
        attack, threat: as in `Condition`.
        num_gradients: of the attack.
        num_qualities: that the defence draws from; 0 without one.
    """

    model: str
    attack: str
    num_gradients: int
    threat: str
    num_qualities: int

    @property
    def num_passes(self) -> int:
        """Of one image through the model; an attack that does not know of a defence is that on the bare model."""
        if self.num_qualities and self.threat == "static":
            return 1
        # the mean over all qualities that a defence draws from
        return self.num_gradients * (self.num_qualities if self.threat.startswith("eot-") else 1) + 1


class Timing(NamedTuple):
    """A computed cell: its kind, images, and the seconds of attack and model."""

    kind: CellKind
    num_images: int
    seconds: float


def read_timings(path: Path) -> list[Timing]:
    """The lines that `limla evaluate` left about its cells; none where there is no file.

    Raises `DataError` naming a line that is none of them.
    """
    if not path.exists():
        return []
    found: list[Timing] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            # the first lines had neither threat nor gradients
            told = line["attack"], line.get("num_gradients", 0), line.get("threat", "")
            kind = CellKind(line["model"], *told, _num_qualities(line.get("defence", "")))
            found.append(Timing(kind, max(int(line["num_samples"]), 1), float(line["seconds_computing"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: damaged ({error}); remove the line, only times are read from it"
            ) from error
    return found


def _num_qualities(defence: str) -> int:
    """Of "jpeg:10+50": 2; of "": 0."""
    return defence.count("+") + 1 if defence else 0


def cell_seconds(left: Sequence[tuple[CellKind, int | None]], timings: Sequence[Timing]) -> float | None:
    """Of cells that are left, each with its images (None while they are not known); None while no cell was timed.

    A cell takes the mean time per image of computed ones of its kind. Where there is none: of its model, else of all
    models, by how often an image passes through the model.
    """
    if not left:
        return 0.0
    if not timings:
        return None
    known: dict[CellKind, list[float]] = defaultdict(list)
    by_model: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for kind, num_images, seconds in timings:
        known[kind].append(seconds / num_images)
        for model in (kind.model, ""):
            by_model[model].append((seconds, num_images * kind.num_passes))
    per_pass = {
        model: sum(seconds for seconds, _ in parts) / sum(number for _, number in parts)
        for model, parts in by_model.items()
    }
    usual = statistics.fmean(timing.num_images for timing in timings)
    total = 0.0
    for kind, num_images in left:
        number = usual if num_images is None else num_images
        if kind in known:
            total += number * statistics.fmean(known[kind])
        else:
            total += number * kind.num_passes * per_pass.get(kind.model, per_pass[""])
    return total


def training_seconds(folder: Path) -> float:
    """How long the epochs of a finished training took; raises `DataError` for a damaged history."""
    path = folder / "history.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return sum(float(row["seconds"]) for row in csv.DictReader(file))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove {folder} and run the study again") from error


def model_seconds(left: Sequence[Hashable], finished: Sequence[tuple[Hashable, float]]) -> float | None:
    """Of models that are left, each told by what its time depends on; None while none is trained.

    A model takes the mean time of finished ones of its kind; where there is none, of all.
    """
    if not left:
        return 0.0
    if not finished:
        return None
    known: dict[Hashable, list[float]] = defaultdict(list)
    for kind, seconds in finished:
        known[kind].append(seconds)
    usual = statistics.fmean(seconds for _, seconds in finished)
    return sum(statistics.fmean(known[kind]) if kind in known else usual for kind in left)
