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
from limla.statistics import Interval

NUM_BINS = 15
"""Of equal width, as Guo, Pleiss, Sun & Weinberger (ICML 2017) take them."""
_SOURCE: Variant = ("source", None)
_NUM_DRAWS = 2000
_FloatArray = npt.NDArray[np.float64]


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
        error_low, error_high: 95% interval of what other n images and seeds would have measured.
        overconfidence: mean confidence − accuracy, in [-1, 1].
        change: error − error on the originals, the same subject, defence and attack; None for the originals, and where
            they were not evaluated. Both are measured on the same images, so what few images add cancels.
        change_low, change_high: its 95% interval, paired by image.
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
    error_low: float | None
    error_high: float | None
    overconfidence: float
    change: float | None
    change_low: float | None
    change_high: float | None


CALIBRATION_SCHEMA = pa.schema(
    [pa.field("test_codec", pa.string()), pa.field("test_quality", pa.int64()), *columns_of(CalibrationRow)]
)


def calibration_rows(evidence: Evidence) -> list[CalibrationRow]:
    """A row for every slot of `evidence`, in its order. Raises `ValueError` for confidences outside [0, 1]."""
    rows: list[CalibrationRow] = []
    for slot, runs in evidence.runs.items():
        gaps = calibration_gaps(runs)
        error, interval = _summed(gaps)
        change, change_interval = _change(evidence, slot)
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
                error=error,
                error_low=_end(max(interval.low, 0.0)),
                error_high=_end(min(interval.high, 1.0)),
                overconfidence=float(-gaps.sum(axis=2).mean()),
                change=change,
                change_low=_end(change_interval.low),
                change_high=_end(change_interval.high),
            )
        )
    return rows


def calibration_table(rows: Iterable[CalibrationRow]) -> pa.Table:
    """CalibrationRows as an Arrow table of `CALIBRATION_SCHEMA`."""
    return table_of(
        ({"test_codec": row.variant[0], "test_quality": row.variant[1], **values_of(row)} for row in rows),
        CALIBRATION_SCHEMA,
    )


def calibration_gaps(runs: Runs) -> _FloatArray:
    """(S, N, B) correct − confidence of each image, in the column of its confidence's bin; 0 in the others.

    Bin b holds confidences in (b / B, (b + 1) / B]. The error of a seed is the sum over the bins of the absolute
    mean over the images.
    """
    sure = runs.confidences().astype(np.float64)
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    edges = np.linspace(0, 1, NUM_BINS + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, NUM_BINS - 1)
    gaps = np.zeros((*sure.shape, NUM_BINS))
    np.put_along_axis(gaps, index[..., None], (runs.correct() - sure)[..., None], axis=2)
    return gaps


def _summed(*gaps: _FloatArray) -> tuple[float, Interval]:
    """The error of one condition's gaps or, of two, the second's minus the first's, with its 95% interval.

    The images are drawn anew: a bin's mean gap over n images is normal with the covariance seen here, between bins,
    seeds and the two conditions. The draws are laid around the measured value, as an absolute mean is biased upward
    in each of them. Seeds add their own variance.
    """
    num_seeds, num_images = gaps[0].shape[:2]
    columns = np.concatenate([part.transpose(1, 0, 2) for part in gaps], axis=1).reshape(num_images, -1)
    mean = columns.mean(axis=0)
    by_seed = _errors(mean, len(gaps), num_seeds)
    value = float(by_seed.mean())
    if num_images < 2:
        return value, Interval(math.nan, math.nan)
    generator = np.random.default_rng(0)
    covariance = np.cov(columns, rowvar=False) / num_images
    drawn = generator.multivariate_normal(mean, covariance, _NUM_DRAWS, method="eigh")
    errors = _errors(drawn, len(gaps), num_seeds).mean(axis=-1)
    deviations = errors - errors.mean()
    if num_seeds > 1:
        deviations += generator.standard_t(num_seeds - 1, _NUM_DRAWS) * by_seed.std(ddof=1) / num_seeds**0.5
    low, high = np.quantile(deviations, [0.025, 0.975])
    return value, Interval(value + float(low), value + float(high))


def _errors(means: _FloatArray, num_conditions: int, num_seeds: int) -> _FloatArray:
    """(…, S) errors from (…, conditions · S · B) mean gaps; with two conditions the second minus the first."""
    absolute = np.abs(means).reshape(*means.shape[:-1], num_conditions, num_seeds, NUM_BINS).sum(axis=-1)
    return absolute[..., 0, :] if num_conditions == 1 else absolute[..., 1, :] - absolute[..., 0, :]


def _change(evidence: Evidence, slot: Slot) -> tuple[float | None, Interval]:
    """The change against the originals with its interval; None where there is nothing to compare with."""
    before = evidence.runs.get(replace(slot, variant=_SOURCE))
    common = common_runs(before, evidence.runs[slot]) if before and slot.variant != _SOURCE else None
    if common is None:
        return None, Interval(math.nan, math.nan)
    return _summed(*map(calibration_gaps, common))


def _end(number: float) -> float | None:
    return None if math.isnan(number) else number
