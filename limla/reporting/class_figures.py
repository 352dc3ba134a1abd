"""Recall per class, and what compression takes of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from limla.analysis.encodings import Variant
from limla.analysis.subjects import Subject
from limla.reporting import figures
from limla.reporting.aggregates import ClassRow
from limla.reporting.sections import Section
from limla.results import Condition

_MAX_CLASSES = 30
_MAX_FIGURES = 4


def class_figures(section: Section, own: Sequence[ClassRow], name: str) -> list[dict[str, Any]]:
    """Per-class drops of the first training condition of each model, classes that lose most first."""
    if section.clean is None:
        return []
    found: list[dict[str, Any]] = []
    first_of_model = {subject.model: subject for subject in reversed(section.subjects)}
    for subject in [s for s in section.subjects if first_of_model[s.model] == s][:_MAX_FIGURES]:
        drops, references, images = _values(section, subject, own)
        variants = [variant for variant in section.variants if variant in drops]
        if not variants:
            continue
        reference, others = variants[-1], variants[:-1][::-1]
        worst = drops[variants[0]]
        order = sorted(references, key=lambda label: (-worst.get(label, -math.inf), label))
        shown = order[:_MAX_CLASSES]
        values = [
            [100 * references[label], *(100 * drops[variant].get(label, math.nan) for variant in others)]
            for label in shown
        ]
        columns = [
            section.variant_label(variant).replace("original", "orig.") for variant in (reference, *others)
        ]
        labels = [f"{section.class_name(label)} (n={images[label]})" for label in shown]
        found.append(
            {
                "subject": subject,
                # matplotlib's writer escaped the names
                "svg": Markup(figures.class_drops(labels, columns, values, f"{name}-classes{len(found)}")),
                "reference": section.variant_label(reference),
                "num_shown": len(shown),
                "num_classes": len(order),
                "num_images": (min(images.values()), max(images.values())),
            }
        )
    return found


def _values(
    section: Section, subject: Subject, own: Sequence[ClassRow]
) -> tuple[dict[Variant, dict[int, float]], dict[int, float], dict[int, int]]:
    """Mean drop by variant and class, mean recall at the reference, images per class, of the clean cells."""
    assert section.clean is not None
    variant_of: dict[Condition, Variant] = {
        cell: variant
        for variant in section.variants
        for cell in section.cells.get((subject, variant, section.clean), ())
    }
    drops: dict[Variant, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    recalls: dict[Variant, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    images: dict[int, int] = {}
    for row in own:
        if row.condition in variant_of:
            variant = variant_of[row.condition]
            recalls[variant][row.label].append(row.recall)
            images[row.label] = row.num_samples
            if row.drop is not None:
                drops[variant][row.label].append(row.drop)
    best = [variant for variant in section.variants if variant in recalls][-1:]
    references = _means(recalls[best[0]]) if best else {}
    return {variant: _means(found) for variant, found in drops.items()}, references, images


def _means(values: dict[int, list[float]]) -> dict[int, float]:
    return {label: math.fsum(found) / len(found) for label, found in values.items()}


def class_counts(section: Section, own: Sequence[ClassRow]) -> list[tuple[str, int]]:
    """Images of each class that were evaluated."""
    images: dict[int, int] = {}
    for row in own:
        images[row.label] = max(images.get(row.label, 0), row.num_samples)
    return [(section.class_name(label), images[label]) for label in sorted(images)]
