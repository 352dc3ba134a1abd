"""Where the loss comes from: a chain of conditions that differ by one step each, and each step's share.

Source → decoded by another decoder → resized otherwise → the codec → an attack. `limla breakdown` evaluates such a
chain; it is found again from the rows alone, by what their conditions say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pyarrow as pa

from limla.analysis.columns import columns_of, table_of, values_of
from limla.analysis.encodings import Variant
from limla.analysis.pairs import Evidence, Runs, Slot
from limla.analysis.subjects import Attack, variant_text
from limla.manifest import SOURCE
from limla.metrics import Flags
from limla.statistics import PairedDifference, paired_difference
from limla.types import Reading, split_reading

StepKind = Literal["source", "decoder", "resize", "codec", "attack"]
_Identity: TypeAlias = tuple[str, ...]
_Place: TypeAlias = tuple[_Identity, Reading, Variant, Attack | None]

_ORIGINALS: Variant = (SOURCE, None)
_FAST, _FAST_ALIASED = Reading("fast"), Reading("fast", antialias=False)


@dataclass(frozen=True)
class Step:
    """One condition of a chain.

    Attributes:
        kind: what changed; "source" is where the chain begins.
        text: the same, for readers: "resize without antialiasing", "jpeg q10".
        accuracy: share of correct images in [0, 1], mean over the runs.
        change: against the step before, on the same images and models; None for the first.
        share: of the chain's loss of accuracy, in this step; the shares of a chain add up to 1, and one is negative
            where the step gained. None for the first, and where the interval of the chain's loss holds none.
    """

    kind: StepKind
    text: str
    accuracy: float
    change: PairedDifference | None = None
    share: float | None = None


@dataclass(frozen=True)
class Breakdown:
    """One chain of one subject.

    Attributes:
        dataset, split: of the images.
        label: the subject's.
        seeds: training seeds of the runs that every step has.
        num_images: per run.
        steps: in order.
        total: the last step against the first.
    """

    dataset: str
    split: str
    label: str
    seeds: tuple[int, ...]
    num_images: int
    steps: tuple[Step, ...]
    total: PairedDifference


def breakdowns(evidence: Evidence) -> list[Breakdown]:
    """Every whole chain among the undefended cells, in reading order.

    A chain ends with an attack; without any attack on its quality, with the codec. Only runs that every step has count.
    """
    places: dict[_Place, Slot] = {}
    for slot in evidence.runs:
        if slot.defence is None:
            places[_place(slot)] = slot
    found: list[Breakdown] = []
    for identity, reading, variant, attack in places:
        if variant == _ORIGINALS or reading != _FAST_ALIASED:
            continue
        is_attacked = any(
            place[:3] == (identity, reading, variant) and place[3] is not None for place in places
        )
        if attack is None and is_attacked:
            continue
        wanted = _chain(identity, variant, attack)
        if all(place in places for _, place in wanted):
            made = _breakdown(evidence, {kind: places[place] for kind, place in wanted})
            found += [made] if made else []
    return found


def _place(slot: Slot) -> _Place:
    subject = slot.subject
    decoder, preprocessing, reading = split_reading(subject.decoder, subject.preprocessing)
    if preprocessing == "none" and reading.decoding == "fast":
        reading = _FAST_ALIASED  # images of their own size are not resized: all is changed that can be
    training = (subject.train_codec, subject.train_quality, subject.train_method)
    identity = (subject.model, *training, subject.checkpoint_id, decoder, preprocessing)
    return identity, reading, slot.variant, None if slot.attack.is_none else slot.attack


def _chain(identity: _Identity, variant: Variant, attack: Attack | None) -> list[tuple[StepKind, _Place]]:
    """The places of the chain that ends with a variant, or an attack on it."""
    is_resized = identity[-1] != "none"
    steps: list[tuple[StepKind, _Place]] = [
        ("source", (identity, Reading(), _ORIGINALS, None)),
        ("decoder", (identity, _FAST if is_resized else _FAST_ALIASED, _ORIGINALS, None)),
    ]
    if is_resized:
        steps.append(("resize", (identity, _FAST_ALIASED, _ORIGINALS, None)))
    steps.append(("codec", (identity, _FAST_ALIASED, variant, None)))
    if attack is not None:
        steps.append(("attack", (identity, _FAST_ALIASED, variant, attack)))
    return steps


def _breakdown(evidence: Evidence, chain: Mapping[StepKind, Slot]) -> Breakdown | None:
    """The chain's numbers; None where no checkpoint has every step."""
    runs = _common([evidence.runs[slot] for slot in chain.values()])
    if runs is None:
        return None
    correct = [run.correct() for run in runs]
    total = paired_difference(correct[0], correct[-1])
    subject = next(iter(chain.values())).subject
    return Breakdown(
        dataset=evidence.dataset,
        split=evidence.split,
        label=f"{subject.model} · {subject.training}",
        seeds=runs[0].seeds,
        num_images=runs[0].num_images,
        steps=tuple(_steps(chain, correct, total)),
        total=total,
    )


def _steps(chain: Mapping[StepKind, Slot], correct: Sequence[Flags], total: PairedDifference) -> list[Step]:
    lost = total.difference if total.high < 0 else None
    steps: list[Step] = []
    for number, (kind, slot) in enumerate(chain.items()):
        accuracy = float(correct[number].mean())
        change = paired_difference(correct[number - 1], correct[number]) if number else None
        share = None if change is None or lost is None else change.difference / lost
        steps.append(Step(kind, _text(kind, slot), accuracy, change, share))
    return steps


def _text(kind: StepKind, slot: Slot) -> str:
    texts: dict[StepKind, str] = {
        "source": "originals, as limla reads them",
        "decoder": "fast decoder (DCT and chroma)",
        "resize": "resize without antialiasing",
        "codec": variant_text(slot.variant),
        "attack": slot.attack.label,
    }
    return texts[kind]


def _common(runs: Sequence[Runs]) -> list[Runs] | None:
    """The runs of the checkpoints that all have, in one order; None where there is none."""
    places = [{cell.checkpoint_id: number for number, cell in enumerate(one.conditions)} for one in runs]
    names = [name for name in places[0] if all(name in known for known in places)]
    if not names:
        return None
    return [one.only([known[name] for name in names]) for one, known in zip(runs, places, strict=True)]


_SCHEMA = pa.schema(
    [
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("seeds", pa.string()),
        pa.field("kind", pa.string()),
        *columns_of(Step),
        *columns_of(PairedDifference, "change_"),
    ]
)


def breakdown_table(found: Sequence[Breakdown]) -> pa.Table:
    """A row per step; `share` and the columns `change_…` are null for the first step of a chain."""
    return table_of(
        (
            {
                "dataset": one.dataset,
                "split": one.split,
                "subject": one.label,
                "seeds": "+".join(map(str, one.seeds)),
                "kind": step.kind,
                **values_of(step),
                **(values_of(step.change, "change_") if step.change else {}),
            }
            for one in found
            for step in one.steps
        ),
        _SCHEMA,
    )
