"""What attacked runs hold besides their predictions, and the clean runs they came from."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.analysis.pairs import Evidence, Runs, Slot
from limla.analysis.subjects import Attack
from limla.metrics import Flags
from limla.plans import NO_ATTACK
from limla.statistics import Interval, proportion_interval
from limla.statistics.crossed import crossed_mean

Ints = npt.NDArray[np.int64]
NOTHING = Attack(NO_ATTACK, "", 0.0, "", "no attack")
"""The attack of clean slots."""


def clean_slot(slot: Slot) -> Slot:
    """Where the images of an attacked slot came from: behind the same defence, without the attack."""
    return replace(slot, attack=NOTHING, threat="")


def undefended_slot(slot: Slot) -> Slot:
    """The same attack on the model alone."""
    return replace(slot, defence=None, threat="")


def targets(runs: Runs) -> Ints | None:
    """(S, N) classes that a targeted attack aims at; None for other attacks."""
    return _whole(runs, "target")


def num_bytes(runs: Runs) -> Ints | None:
    """(S, N) bytes of the bitstreams that a defence made; None without a defence."""
    return _whole(runs, "num_bytes")


def failed(runs: Runs) -> Flags:
    """(S, N): the attack failed. The label is still predicted or, of a targeted attack, the target is not."""
    aims = targets(runs)
    return runs.correct() if aims is None else runs.predictions() != aims


def _whole(runs: Runs, name: str) -> Ints | None:
    """A column that every row has, stacked over the runs; None where any run lacks a value."""
    columns: list[npt.NDArray[Any]] = []
    for table, order in zip(runs.tables, runs.orders, strict=True):
        # files of older versions lack the column
        if name not in table.column_names or table[name].null_count:
            return None
        column = table[name].to_numpy()
        columns.append(column if order is None else column[order])
    return np.stack(columns).astype(np.int64)


def share(hits: Flags, among: Flags) -> tuple[float, Interval]:
    """hits & among / among over all seeds, with its 95% interval; both (S, N) bool. NaN where `among` is empty.

    One seed: Wilson's score interval. Several: Student's t around the mean, images and seeds both drawn at random
    (`limla.statistics.crossed`; the ratio is linearised), and no narrower than Wilson's on the images of a single
    seed, as a share of 0 or 1 would otherwise have no width.
    """
    total = int(among.sum())
    if total == 0:
        return math.nan, Interval(math.nan, math.nan)
    counted = hits & among
    value = int(counted.sum()) / total
    of_one_seed = max(1, round(total / len(among)))
    wilson = proportion_interval(min(of_one_seed, round(value * of_one_seed)), of_one_seed)
    if len(among) == 1:
        return value, wilson
    from scipy.stats import t

    residuals = (counted.astype(np.float64) - value * among) / (total / among.size)
    found = crossed_mean(residuals)
    half = float(t.ppf(0.975, found.degrees_of_freedom)) * found.standard_error
    if math.isnan(half):
        return value, wilson
    return value, Interval(max(0.0, min(value - half, wilson.low)), min(1.0, max(value + half, wilson.high)))


def crop_side(preprocessing: str) -> int | None:
    """The side in pixels of the model's input, from `Preprocessing.describe`; None where images keep their size."""
    match = re.fullmatch(r"shorter\d+-crop(\d+)", preprocessing)
    return int(match[1]) if match else None


def tested_slots(evidence: Evidence) -> list[Slot]:
    """The clean, undefended slot of every subject and test variant of `evidence`, whether evaluated or not."""
    return list(dict.fromkeys(Slot(slot.subject, slot.variant, NOTHING) for slot in evidence.runs))
