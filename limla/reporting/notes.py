"""What a full report would show and this one cannot, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limla.reporting.aggregates import Predictions, without_clean
from limla.reporting.sections import Section


def missing(found: Sequence[Section], predictions: Predictions, known: Iterable[str]) -> list[str]:
    """What the sections lack; `known` are the datasets whose shard folders were given."""
    notes: list[str] = []
    for section in found:
        where = f"{section.dataset}, {section.split}: " if len(found) > 1 else ""
        notes += [f"{where}{note}" for note in (*section.notes, *_of_section(section))]
    alone = without_clean(predictions)
    if alone:
        notes.append(
            f"No attack success rate for {len(alone)} attacked condition(s): the same condition without the "
            "attack, against which each image is paired, was not evaluated."
        )
    unused = sorted(set(known) - {section.dataset for section in found})
    return [*notes, *(f"No result is about the dataset '{name}' of --data-dir." for name in unused)]


def _of_section(section: Section) -> Iterable[str]:
    if section.data is None:
        yield (
            "Rates, PSNR, SSIM, class names and packing counts are not shown: the report was made "
            "without the dataset's shard folders (--data-dir)."
        )
    else:
        without = [
            section.variant_label(variant)
            for variant in section.variants
            if section.data.summary(variant, section.split) is None
        ]
        if without:
            yield f"No measured rate for: {', '.join(without)}."
    if section.clean is None:
        yield "No cell without an attack was evaluated: accuracy is not shown."
    if all(attack.is_none for attack in section.attacks):
        yield "No attack was evaluated: robust accuracy is not shown."
    if section.variants and all(quality is not None for _, quality in section.variants):
        yield "The originals were not evaluated: the highest quality is the reference."
    if len(section.variants) == 1:
        yield "One test quality only: there is no curve to draw."
    if not section.variants:
        yield "Every result is simulated: none was measured on encoded images."
