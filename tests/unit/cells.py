"""Cells whose right and wrong images are written down, for the suites of limla.analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from limla.analysis.encodings import DataFolder
from limla.analysis.pairs import Evidence, collect
from limla.results import Condition, PredictionColumns, PredictionRow, write_predictions
from tests.unit.reported import NONE, condition

Cell = tuple[Condition, pa.Table]
FGSM = ("fgsm", "linf", 8 / 255, "{}")


def cell(
    quality: int | None,
    right: str,
    attack: tuple[str, str, float, str] = NONE,
    /,
    keys: Sequence[str] = (),
    dataset: str = "flowers",
    **changes: Any,
) -> Cell:
    """The flowers' cell of one test quality (None: the originals).

    `right` says image by image, "1" or "0", whether it is right; `keys` names the images ("a", "b", … by default).
    Image number n has label n mod 3, loss n / 10 and confidence 0.5. `changes` are fields of the condition; `seed=2`
    alone brings a checkpoint of its own.
    """
    if "seed" in changes:
        changes.setdefault("checkpoint_id", f"seed{changes['seed']}".ljust(16, "0"))
    return replace(condition(quality, attack, dataset=dataset), **changes), PredictionColumns(
        _rows(right, keys)
    ).table()


def write_cell(folder: Path, right: str, made: Cell, keys: Sequence[str] = ()) -> None:
    """Store a cell that was made with the same `right` and `keys`."""
    write_predictions(folder, made[0], _rows(right, keys))


def _rows(right: str, keys: Sequence[str]) -> list[PredictionRow]:
    names = keys or [chr(ord("a") + number) for number in range(len(right))]
    return [
        PredictionRow(
            key=f"test/{name}",
            label=_number(name) % 3,
            prediction=(_number(name) + (letter == "0")) % 3,
            correct=letter == "1",
            loss=_number(name) / 10,
            confidence=0.5,
        )
        for name, letter in zip(names, right, strict=True)
    ]


def _number(name: str) -> int:
    return ord(name[0]) - ord("a") if len(name) == 1 else int(name)


def images(number: int) -> list[str]:
    """Names of many images."""
    return [f"{10 + place}" for place in range(number)]


def evidence(*cells: Cell, data: Mapping[str, DataFolder] | None = None) -> Evidence:
    """The evidence of cells that are all of one split of one dataset."""
    (found,) = collect(cells, data or {})
    return found
