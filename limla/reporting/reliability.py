"""Reliability diagrams: how often a model is right, by how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from limla.analysis.calibration import NUM_BINS
from limla.analysis.encodings import Variant
from limla.analysis.pairs import Runs, Slot
from limla.pages.plots import Place, Style, line, percent, plot
from limla.reporting.curves import Panels, panel_title, panels
from limla.reporting.sections import Section
from limla.statistics import expected_calibration_error, proportion_interval

PERFECT = "as sure as right"
_MAX_VARIANTS = 5
_FEWEST_IMAGES = 5
"""A bin with fewer images has no point."""


def reliability_diagrams(section: Section, name: str) -> Panels | None:
    """Accuracy against confidence without an attack, a panel per subject, a line per test quality."""
    if section.evidence is None or section.clean is None:
        return None
    styles = {
        variant: Style(number, hollow=variant[1] is None)
        for number, variant in enumerate(_even_choice(section.variants[::-1]))
    }
    perfect = Style(6, dash=2)
    diagonal: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 100],
        "y": [0, 100],
        "hoverinfo": "skip",
        "legendgroup": PERFECT,
        "line": {"color": perfect.colour, "width": 1, "dash": perfect.dashes},
    }
    plots: list[Markup] = []
    for subject in section.subjects:
        traces: list[dict[str, Any]] = []
        for variant, style in styles.items():
            runs = section.evidence.runs.get(Slot(subject, variant, section.clean))
            if runs is not None:
                label = section.variant_label(variant)
                traces += line(_places(runs, label), label, style)
        if traces:
            title = panel_title(section, subject)
            axis = percent("confidence (%)")
            label = f"{title}: accuracy against confidence, one line per test quality"
            plots.append(plot(f"{name}-{len(plots)}", [diagonal, *traces], axis, percent(), label, title=title))
    entries = [(section.variant_label(variant), style) for variant, style in styles.items()]
    return panels([*entries, (PERFECT, perfect)], plots) if plots else None


def _even_choice(variants: Sequence[Variant]) -> list[Variant]:
    """At most `_MAX_VARIANTS`, both ends among them."""
    chosen = np.linspace(0, len(variants) - 1, min(_MAX_VARIANTS, len(variants))).round().astype(int)
    return [variants[place] for place in dict.fromkeys(chosen.tolist())]


def _places(runs: Runs, label: str) -> list[Place]:
    """A point for each bin with enough images; all runs together."""
    correct = runs.correct()
    found = expected_calibration_error(runs.confidences().ravel(), correct.ravel(), NUM_BINS, num_resamples=100)
    places: list[Place] = []
    for number, sure, right in zip(
        found.num_samples.tolist(), found.mean_confidence.tolist(), found.accuracy.tolist(), strict=True
    ):
        if number < _FEWEST_IMAGES * len(correct):
            continue
        # runs share their images: the interval is that of one run's number of images
        num_images = round(number / len(correct))
        low, high = proportion_interval(round(right * num_images), num_images)
        told = f"{label}\nconfidence {100 * sure:.1f}%\nright {100 * right:.1f}%\nn = {number}"
        places.append(Place(100 * sure, 100 * right, 100 * min(low, right), 100 * max(high, right), told))
    return places
