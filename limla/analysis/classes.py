"""Which classes pay for compression: recall per class, paired with the originals or with no defence."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import Variant, quality_rank
from limla.analysis.pairs import Evidence, Runs, Slot, common_runs
from limla.statistics import PairedDifference, holm, paired_difference


@dataclass(frozen=True)
class RecallRow:
    """What one class lost or won from one condition to another, on the same images and seeds.

    Attributes:
        dataset, split: of the images.
        subject: label of the model and its training.
        change: what differs: "quality" (against the originals, or the codec's best quality without them) or "defence"
            (against the model alone).
        variant: (codec, quality) of the test images.
        defence: label, "" without.
        label: class index; class_name: "" where the shards are not at hand.
        num_images, num_seeds: of the class.
        recall_before, recall: correct / images of the class, mean over the seeds, in [0, 1].
        difference: recall − recall_before.
        low, high: its 95% interval (`limla.statistics.paired_difference`); None where there is none.
        p_value: of no difference; p_holm: after Holm's correction over the classes of this change.
    """

    dataset: str
    split: str
    subject: str
    change: str
    variant: Variant
    defence: str
    label: int
    class_name: str
    num_images: int
    num_seeds: int
    recall_before: float
    recall: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None


RECALL_SCHEMA = pa.schema(
    [pa.field("test_codec", pa.string()), pa.field("test_quality", pa.int64()), *columns_of(RecallRow)]
)


def recall_rows(evidence: Evidence) -> list[RecallRow]:
    """A row for each class of each change of clean images, in the order of `evidence`; the worst class first.

    Ties are broken by class index. Conditions without a checkpoint in common are left out.
    """
    rows: list[RecallRow] = []
    for change, before, after in _changes(evidence):
        common = common_runs(evidence.runs[before], evidence.runs[after])
        if common is not None:
            rows += _rows(evidence, change, after, *common)
    return rows


def recall_table(rows: Iterable[RecallRow]) -> pa.Table:
    """RecallRows as an Arrow table of `RECALL_SCHEMA`."""
    return table_of(
        ({"test_codec": row.variant[0], "test_quality": row.variant[1], **values_of(row)} for row in rows),
        RECALL_SCHEMA,
    )


def _changes(evidence: Evidence) -> Iterator[tuple[str, Slot, Slot]]:
    """(change, before, after) of every clean slot that has something to be compared with."""
    clean = [slot for slot in evidence.runs if slot.attack.is_none]
    for slot in clean:
        if slot.defence is not None:
            before = replace(slot, defence=None)
            if before in evidence.runs:
                yield "defence", before, slot
            continue
        alike = [
            other
            for other in clean
            if replace(other, variant=slot.variant) == slot and other.variant[0] in (slot.variant[0], "source")
        ]
        best = max(alike, key=lambda other: quality_rank(other.variant))
        if best != slot:
            yield "quality", best, slot


def _rows(evidence: Evidence, change: str, slot: Slot, before: Runs, after: Runs) -> list[RecallRow]:
    labels = after.labels()
    right_before, right_after = before.correct(), after.correct()
    present, images = np.unique(labels, return_counts=True)
    # the images of a class side by side
    order = np.argsort(labels, kind="stable")
    moves = (right_after.astype(np.int8) - right_before)[:, order]
    ends = np.cumsum(images)
    recalls = [
        np.add.reduceat(right[:, order].sum(axis=0), ends - images) / images / len(right)
        for right in (right_before, right_after)
    ]
    found = [
        _difference(moves[:, end - number : end]) for end, number in zip(ends, images.tolist(), strict=True)
    ]
    adjusted = holm([result.p_value for result in found])
    names: tuple[str, ...] = evidence.data.first.class_names if evidence.data else ()
    rows = [
        RecallRow(
            dataset=evidence.dataset,
            split=evidence.split,
            subject=slot.subject.label,
            change=change,
            variant=slot.variant,
            defence=slot.defence.label if slot.defence else "",
            label=int(label),
            class_name=str(names[label]) if label < len(names) else "",
            num_images=int(images[place]),
            num_seeds=len(moves),
            recall_before=float(recalls[0][place]),
            recall=float(recalls[1][place]),
            difference=result.difference,
            low=_known(result.low),
            high=_known(result.high),
            p_value=_known(result.p_value),
            p_holm=_known(float(adjusted[place])),
        )
        for place, (label, result) in enumerate(zip(present.tolist(), found, strict=True))
    ]
    return sorted(rows, key=lambda row: (row.difference, row.label))


def _difference(moves: npt.NDArray[np.int8]) -> PairedDifference:
    """The paired difference of (S, n) moves: -1 lost, 0 alike, 1 gained."""
    columns = moves[:, moves.any(axis=0)]
    # the order of the images does not matter, and most classes have few that moved
    columns = columns[:, np.lexsort(columns)]
    return _difference_of(columns.tobytes(), len(moves), moves.shape[1])


@functools.lru_cache(maxsize=1 << 14)
def _difference_of(moved: bytes, num_seeds: int, num_images: int) -> PairedDifference:
    columns = np.frombuffer(moved, np.int8).reshape(num_seeds, -1)
    moves = np.zeros((num_seeds, num_images), np.int8)
    moves[:, : columns.shape[1]] = columns
    return paired_difference(moves < 0, moves > 0)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
