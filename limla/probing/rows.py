"""The table of a probe: accuracies, and what changes against the original pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from limla.analysis.attacked import share
from limla.probing.parts import Part, PartName
from limla.probing.settings import PIXELS, ProbeInput, Representation
from limla.statistics import holm, paired_difference


@dataclass(frozen=True)
class ProbeRow:
    """One line of the table: an input under one representation, over its seeds.

    Attributes:
        representation: of `limla.probing.settings.REPRESENTATIONS`.
        input: "pixels", "decoded" or "codes".
        quality: of the codec; None for "pixels".
        rate_bpp: mean bits per pixel of the test images' files; None for "pixels".
        num_values: that the linear probe saw of an image.
        num_parameters: of the encoder; None without one.
        num_seeds, num_images: that the accuracy is over; 1 seed where nothing depends on it.
        accuracy, ci_low, ci_high: on the test images, in [0, 1], with its 95% interval: Wilson's, over several seeds
            the one of `limla.analysis.attacked.share`.
        difference, difference_low, difference_high: of accuracy against the original pixels under the same
            representation, same images and seeds; None for these themselves.
        p_value, p_holm: of that difference, by itself and corrected for all of the table's.
        test: that made it.
        detectable: the smallest difference that so many images and seeds find with 80% power; None where none is.
        test_loss, diagonal, off_diagonal: of the twins of the test images, means over the seeds; None without encoder.
        train_loss: of the last epoch, mean over the seeds; None without training.
    """

    representation: str
    input: str
    quality: int | None
    rate_bpp: float | None
    num_values: int
    num_parameters: int | None
    num_seeds: int
    num_images: int
    accuracy: float
    ci_low: float
    ci_high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    p_holm: float | None
    test: str
    detectable: float | None
    test_loss: float | None
    diagonal: float | None
    off_diagonal: float | None
    train_loss: float | None


def probe_rows(parts: Mapping[PartName, Part], labels: npt.NDArray[np.int64]) -> list[ProbeRow]:
    """A row for each input and representation, in the order of `parts`; the pixels' must be there for each.

    Args:
        parts: by name; each representation has the same seeds for every input.
        labels: (N,) of the test images.
    """
    groups: dict[tuple[Representation, ProbeInput], list[Part]] = {}
    for name, part in parts.items():
        groups.setdefault((name.representation, name.source), []).append(part)
    correct = {
        group: np.stack([np.asarray(part.predictions) == labels for part in found])
        for group, found in groups.items()
    }
    rows = [_row(group, found, correct[group], correct[group[0], PIXELS]) for group, found in groups.items()]
    adjusted = holm([np.nan if row.p_value is None else row.p_value for row in rows])
    return [
        row if row.p_value is None else replace(row, p_holm=float(p_holm))
        for row, p_holm in zip(rows, adjusted, strict=True)
    ]


def _row(
    group: tuple[Representation, ProbeInput],
    parts: Sequence[Part],
    correct: npt.NDArray[np.bool_],
    of_pixels: npt.NDArray[np.bool_],
) -> ProbeRow:
    representation, source = group
    first = parts[0]
    accuracy, interval = share(correct, np.ones_like(correct))
    change = None if source == PIXELS else paired_difference(of_pixels, correct)
    return ProbeRow(
        representation=representation,
        input=source.kind,
        quality=source.quality,
        rate_bpp=first.rate_bpp,
        num_values=first.num_values,
        num_parameters=first.num_parameters,
        num_seeds=len(parts),
        num_images=correct.shape[1],
        accuracy=accuracy,
        ci_low=interval.low,
        ci_high=interval.high,
        difference=None if change is None else change.difference,
        difference_low=None if change is None else change.low,
        difference_high=None if change is None else change.high,
        p_value=None if change is None else change.p_value,
        p_holm=None,
        test="" if change is None else change.test,
        detectable=None if change is None or math.isnan(change.detectable) else change.detectable,
        test_loss=_mean([part.test_loss for part in parts]),
        diagonal=_mean([part.diagonal for part in parts]),
        off_diagonal=_mean([part.off_diagonal for part in parts]),
        train_loss=_mean([part.train_loss for part in parts]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    assert len(known) in (0, len(values))
    return float(np.mean(known)) if known else None
