"""The images whose prediction flips first as quality falls, or behind a defence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import Variant, quality_rank
from limla.analysis.pairs import Evidence, Runs, Slot
from limla.analysis.subjects import Subject

NUM_SHOWN = 20


@dataclass(frozen=True)
class FlipRow:
    """One image whose prediction flips, of one subject.

    Attributes:
        dataset, split: of the images.
        subject: label of the model and its training; preprocessing: as in `Condition`.
        change: "quality" (other test images than the originals) or "defence" (a codec in front of the model).
        variant: (codec, quality) of the test images before the change.
        codec: whose quality falls.
        key, label: of the image.
        quality: the highest at which at least half of the seeds predict another class than before the change, and at
            which they do so at every lower quality evaluated too; "10+50" for a defence that draws its quality.
        first_quality: the highest at which at least half of the seeds do; they may change back below it.
        num_flipped: seeds that predict another class at `quality`; num_seeds: of all.
        seed: the lowest that does: the next four are this one's.
        prediction_before, prediction: class indices.
        confidence_before, confidence: softmax probabilities of these, in [0, 1].
        rank: among the flips of this subject and change, from 1.
    """

    dataset: str
    split: str
    subject: str
    preprocessing: str
    change: str
    variant: Variant
    codec: str
    key: str
    label: int
    quality: str
    first_quality: str
    num_flipped: int
    num_seeds: int
    seed: int
    prediction_before: int
    prediction: int
    confidence_before: float
    confidence: float
    rank: int


FLIP_SCHEMA = pa.schema(
    [pa.field("test_codec", pa.string()), pa.field("test_quality", pa.int64()), *columns_of(FlipRow)]
)


@dataclass(frozen=True)
class _Series:
    """A clean slot, and the slots that a codec of falling quality makes of it."""

    change: str
    codec: str
    before: Slot
    after: tuple[Slot, ...]
    qualities: tuple[str, ...]


def flip_rows(evidence: Evidence, limit: int | None = NUM_SHOWN) -> list[FlipRow]:
    """The first `limit` flips (None: all) of each subject, test variant and codec, in the order of `evidence`.

    Ranked by the quality at which they flip for good, the highest first; then by how many seeds agree, by how sure
    the model was before, and by key. Images that do not stay flipped down to the lowest quality are left out, and
    without the originals nothing is said about falling quality.
    """
    rows: list[FlipRow] = []
    for series in _all_series(evidence):
        runs = _common([evidence.runs[slot] for slot in (series.before, *series.after)])
        if runs:
            rows += _flips(evidence, series, runs, limit)
    return rows


def flip_table(rows: Iterable[FlipRow]) -> pa.Table:
    """FlipRows as an Arrow table of `FLIP_SCHEMA`; the variant is that before the change."""
    return table_of(
        ({"test_codec": row.variant[0], "test_quality": row.variant[1], **values_of(row)} for row in rows),
        FLIP_SCHEMA,
    )


def _all_series(evidence: Evidence) -> Iterator[_Series]:
    by_codec: dict[tuple[Subject, str], list[Slot]] = defaultdict(list)
    by_defence: dict[tuple[Slot, str, str, str], list[Slot]] = defaultdict(list)
    for slot in evidence.runs:
        if not slot.attack.is_none:
            continue
        if slot.defence is None:
            if slot.variant[1] is not None:
                by_codec[slot.subject, slot.variant[0]].append(slot)
        else:
            # a quality that is drawn has no place among the fixed ones
            drawn = slot.defence.quality if "+" in slot.defence.quality else ""
            before = replace(slot, defence=None)
            by_defence[before, slot.defence.codec, slot.defence.settings, drawn].append(slot)
    for (_, codec), slots in by_codec.items():
        falling = sorted(slots, key=lambda slot: -quality_rank(slot.variant))
        before = replace(falling[0], variant=("source", None))
        if before in evidence.runs:
            names = tuple(str(slot.variant[1]) for slot in falling)
            yield _Series("quality", codec, before, tuple(falling), names)
    for (before, codec, _, drawn), slots in by_defence.items():
        if before in evidence.runs:
            falling = slots if drawn else sorted(slots, key=lambda slot: -_defence_rank(slot))
            names = tuple(_defence_quality(slot) for slot in falling)
            yield _Series("defence", codec, before, tuple(falling), names)


def _defence_quality(slot: Slot) -> str:
    assert slot.defence is not None, slot
    return slot.defence.quality


def _defence_rank(slot: Slot) -> float:
    assert slot.defence is not None, slot
    return quality_rank((slot.defence.codec, int(slot.defence.quality)))


def _common(runs: Sequence[Runs]) -> list[Runs]:
    """The runs of the checkpoints that all have, in one order; nothing where there is none."""
    ids = [[cell.checkpoint_id for cell in one.conditions] for one in runs]
    shared = [checkpoint for checkpoint in ids[0] if all(checkpoint in known for known in ids)]
    if not shared:
        return []
    return [
        one.only([known.index(checkpoint) for checkpoint in shared])
        for one, known in zip(runs, ids, strict=True)
    ]


def _flips(evidence: Evidence, series: _Series, runs: Sequence[Runs], limit: int | None) -> list[FlipRow]:
    before = runs[0].predictions()
    # (Q, S, N): the prediction is another one; (Q, N): so it is for at least half of the seeds
    flipped = np.stack([one.predictions() != before for one in runs[1:]])
    num_flipped = flipped.sum(axis=1)
    most = 2 * num_flipped >= flipped.shape[1]
    for_good = np.logical_and.accumulate(most[::-1], axis=0)[::-1]
    places = np.flatnonzero(for_good[-1])
    quality, first = for_good.argmax(axis=0)[places], most.argmax(axis=0)[places]
    agreeing = num_flipped[quality, places]
    seed = flipped[quality, :, places].argmax(axis=1)
    sure = runs[0].confidences()[seed, places]
    keys = runs[0].keys().take(pa.array(places))
    by_key = _ranks(keys)
    order = np.lexsort((by_key, -sure, -agreeing, quality))[:limit]
    after = [(one.predictions(), one.confidences()) for one in runs[1:]]
    labels, seeds, names = runs[0].labels(), runs[0].seeds, keys.to_pylist()
    slot = series.before
    return [
        FlipRow(
            dataset=evidence.dataset,
            split=evidence.split,
            subject=slot.subject.label,
            preprocessing=slot.subject.preprocessing,
            change=series.change,
            variant=slot.variant,
            codec=series.codec,
            key=names[number],
            label=int(labels[places[number]]),
            quality=series.qualities[quality[number]],
            first_quality=series.qualities[first[number]],
            num_flipped=int(agreeing[number]),
            num_seeds=flipped.shape[1],
            seed=seeds[seed[number]],
            prediction_before=int(before[seed[number], places[number]]),
            prediction=int(after[quality[number]][0][seed[number], places[number]]),
            confidence_before=float(sure[number]),
            confidence=float(after[quality[number]][1][seed[number], places[number]]),
            rank=rank,
        )
        for rank, number in enumerate(order.tolist(), 1)
    ]


def _ranks(keys: pa.Array) -> npt.NDArray[np.int64]:
    """The place of each key in alphabetical order."""
    order = pc.call_function("array_sort_indices", [keys]).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
