"""Does compression make a model more sure than it is right? Expected calibration error per condition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import Variant
from limla.analysis.pairs import Evidence, Runs, Slot, common_runs
from limla.errors import DataError
from limla.statistics import expected_calibration_error

NUM_BINS = 15
"""Of equal width, as Guo, Pleiss, Sun & Weinberger (ICML 2017) take them."""
_SOURCE: Variant = ("source", None)
_NUM_RESAMPLES = 500
_LEVEL_OF_A_POINT = 1e-9


@dataclass(frozen=True)
class CalibrationRow:
    """How far confidence and accuracy lie apart under one condition, over all its seeds.

    Attributes:
        dataset, split: of the images.
        subject: label of the model and its training.
        variant: (codec, quality) of the test images.
        defence, attack, threat: labels; "" and "no attack" without.
        num_images, num_seeds: the error is the mean over the seeds.
        error: the expected calibration error in [0, 1]: Σ over bins of |correct − confidence| weighted by images.
            Measured on n images it lies above that of endless images, the more the fewer they are.
        error_low, error_high: 95% interval of the error of endless images; it may lie below `error`.
        overconfidence: mean confidence − accuracy, in [-1, 1].
        change: the error less that on the originals, the same subject, defence, attack and seeds, both freed of what
            the number of images adds; None for the originals, and where they were not evaluated.
        change_low, change_high: its 95% interval.
    """

    dataset: str
    split: str
    subject: str
    variant: Variant
    defence: str
    attack: str
    threat: str
    num_images: int
    num_seeds: int
    error: float
    error_low: float
    error_high: float
    overconfidence: float
    change: float | None
    change_low: float | None
    change_high: float | None


CALIBRATION_SCHEMA = pa.schema(
    [pa.field("test_codec", pa.string()), pa.field("test_quality", pa.int64()), *columns_of(CalibrationRow)]
)


def calibration_rows(evidence: Evidence) -> list[CalibrationRow]:
    """A row for every slot of `evidence`, in its order.

    Raises `DataError` naming the cell for confidences outside [0, 1], as those of a model that diverged.
    """
    rows: list[CalibrationRow] = []
    errors = {slot: _errors(runs) for slot, runs in evidence.runs.items()}
    for slot, runs in evidence.runs.items():
        found = errors[slot]
        error = found.middle()
        change = _change(evidence, errors, slot)
        rows.append(
            CalibrationRow(
                dataset=evidence.dataset,
                split=evidence.split,
                subject=slot.subject.label,
                variant=slot.variant,
                defence=slot.defence.label if slot.defence else "",
                attack=slot.attack.label,
                threat=slot.threat,
                num_images=runs.num_images,
                num_seeds=len(runs.conditions),
                error=float(found.measured.mean()),
                error_low=max(0.0, error.low),
                error_high=min(1.0, error.high),
                overconfidence=float(runs.confidences().mean(dtype=np.float64) - runs.correct().mean()),
                change=change.value if change else None,
                change_low=change.low if change else None,
                change_high=change.high if change else None,
            )
        )
    return rows


def calibration_table(rows: Iterable[CalibrationRow]) -> pa.Table:
    """CalibrationRows as an Arrow table of `CALIBRATION_SCHEMA`."""
    return table_of(
        ({"test_codec": row.variant[0], "test_quality": row.variant[1], **values_of(row)} for row in rows),
        CALIBRATION_SCHEMA,
    )


@dataclass(frozen=True)
class _Middle:
    """A mean over seeds with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Errors:
    """The errors of S seeds, (S,) each: as measured, freed of the bias, and the ends of their 95% intervals."""

    measured: npt.NDArray[np.float64]
    unbiased: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    def only(self, places: list[int]) -> _Errors:
        return _Errors(self.measured[places], self.unbiased[places], self.low[places], self.high[places])

    def middle(self) -> _Middle:
        """The mean unbiased error; the seeds share their images, so their arms are averaged, not their variances."""
        below, above = (self.unbiased - self.low).mean(), (self.high - self.unbiased).mean()
        return _spread(self.unbiased, float(below), float(above))

    def minus(self, before: _Errors) -> _Middle:
        """The mean difference; arms by the method of variance estimates recovery (Zou & Donner, Statistics in Medicine
        27, 2008), as if the two errors were independent: on the same images they vary together, and less."""
        mine, other = self.middle(), before.middle()
        below = math.hypot(mine.value - mine.low, other.high - other.value)
        above = math.hypot(mine.high - mine.value, other.value - other.low)
        value = mine.value - other.value
        return _Middle(value, max(-1.0, value - below), min(1.0, value + above))


def _spread(values: npt.NDArray[np.float64], below: float, above: float) -> _Middle:
    """The mean of S values, its arms widened by what the seeds differ (Student's t)."""
    value, seeds = float(values.mean()), 0.0
    if len(values) > 1:
        from scipy.stats import sem, t

        seeds = float(t.ppf(0.975, len(values) - 1)) * float(np.asarray(sem(values)))
    return _Middle(value, value - math.hypot(below, seeds), value + math.hypot(above, seeds))


def _errors(runs: Runs) -> _Errors:
    found: list[tuple[float, float, float, float]] = []
    for cell, sure, right in zip(runs.conditions, runs.confidences(), runs.correct(), strict=True):
        if not ((sure >= 0) & (sure <= 1)).all():
            raise DataError(
                f"cell {cell.cell_id} holds a confidence that does not lie between 0 and 1: remove its prediction file "
                "and evaluate again"
            )
        error = expected_calibration_error(sure, right, NUM_BINS, num_resamples=_NUM_RESAMPLES)
        # where both ends of the interval meet: the error that would be measured as large, or larger, half of the time
        point = expected_calibration_error(
            sure, right, NUM_BINS, level=_LEVEL_OF_A_POINT, num_resamples=_NUM_RESAMPLES
        ).low
        found.append((error.value, point, min(error.low, point), max(error.high, point)))
    return _Errors(*np.array(found).T)


def _change(evidence: Evidence, errors: dict[Slot, _Errors], slot: Slot) -> _Middle | None:
    """The change against the originals over the seeds that both have; None where there is nothing to compare with."""
    origin = replace(slot, variant=_SOURCE)
    before, after = evidence.runs.get(origin), evidence.runs[slot]
    common = common_runs(before, after) if before and slot.variant != _SOURCE else None
    if before is None or common is None:
        return None
    places = [
        [whole.conditions.index(cell) for cell in part.conditions]
        for whole, part in zip((before, after), common, strict=True)
    ]
    return errors[slot].only(places[1]).minus(errors[origin].only(places[0]))
