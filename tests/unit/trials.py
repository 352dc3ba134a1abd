"""Cells of attack studies whose outcomes are known, for the suites of `limla.analysis`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limla.analysis.pairs import Evidence, collect
from limla.files import canonical_json
from limla.results import PREDICTION_SCHEMA, Condition
from tests.unit.reported import condition

NUM_CLASSES = 10
Cell = tuple[Condition, pa.Table]


def attacked(name: str, eps: float = 8 / 255, norm: str = "linf", **settings: Any) -> dict[str, Any]:
    """The fields of a condition that say which attack it is."""
    return {"attack": name, "norm": norm, "eps": eps, "attack_settings": canonical_json(settings)}


def defended(fields: dict[str, Any], quality: str, threat: str) -> dict[str, Any]:
    """The fields of the same attack behind JPEG."""
    settings = json.loads(fields.get("attack_settings", "{}")) | {"defence": {"version": "one 1.0"}}
    if "+" in quality:
        settings["seed"] = 0
    return fields | {
        "attack_settings": canonical_json(settings),
        "defence_codec": "jpeg",
        "defence_quality": quality,
        "threat": threat,
    }


def cell(
    correct: npt.ArrayLike,
    fields: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    quality: int | None = None,
    labels: Sequence[int] | None = None,
    predictions: npt.ArrayLike | None = None,
    confidence: npt.ArrayLike | None = None,
    targets: Sequence[int] | None = None,
    num_bytes: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    **changes: Any,
) -> Cell:
    """A condition and its rows: image i has label i % 10, and where it is wrong the next class is predicted."""
    right = np.asarray(correct, bool)
    number = len(right)
    true = np.arange(number) % NUM_CLASSES if labels is None else np.asarray(labels)
    said = np.where(right, true, (true + 1) % NUM_CLASSES) if predictions is None else np.asarray(predictions)
    nothing: list[int | None] = [None] * number
    table = pa.table(
        {
            "key": [f"test/{place:06d}" for place in range(number)],
            "label": true,
            "prediction": said,
            "correct": said == true,
            "loss": np.full(number, 0.5),
            "confidence": np.full(number, 0.8) if confidence is None else np.asarray(confidence),
            "target": nothing if targets is None else targets,
            "num_bytes": nothing if num_bytes is None else num_bytes,
        },
        schema=PREDICTION_SCHEMA,
    )
    made = condition(quality, seed=seed, checkpoint_id=f"checkpoint{seed}")
    made = replace(made, **(fields or {}), **changes)
    return made, table if order is None else table.take(pa.array(order))


def evidence(*cells: Cell) -> Evidence:
    """The evidence of cells of one split."""
    (found,) = collect(cells, {})
    return found


def first(number: int, total: int = 200) -> npt.NDArray[np.bool_]:
    """The first `number` of `total` images are right."""
    return np.arange(total) < number
