"""The report's figures: what each shows of a section's points. How they are drawn is `limla.reporting.drawing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from limla.analysis.encodings import Variant
from limla.analysis.subjects import Attack, Subject
from limla.reporting.drawing import (
    COLOURS,
    MARKERS,
    NAME_POINTS,
    heat_map,
    label_offsets,
    open_figure,
    plain_log_ticks,
    shorten,
    to_svg,
)
from limla.reporting.sections import Point, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS_PER_ROW = 3


def curves(section: Section, over: str, name: str) -> str:
    """Accuracy and robust accuracy with their 95% bands, one panel per subject.

    `over` is "quality" (evenly spaced, the originals on the right) or "rate" (mean bits per pixel, log scale).
    """
    # four panels stand better as two by two than as three and one
    columns = 2 if len(section.subjects) in (2, 4) else min(_PANELS_PER_ROW, len(section.subjects))
    num_rows = math.ceil(len(section.subjects) / columns)
    places = _positions(section, over)
    legend_rows = math.ceil(len(section.attacks) / 4)
    with open_figure(max(3.5 * columns, 4.6), 2.75 * num_rows + 0.25 * legend_rows + 0.15) as figure:
        grid = figure.subplots(num_rows, columns, squeeze=False, sharey=True)
        for number, axes in enumerate(grid.flat):
            if number >= len(section.subjects):
                axes.set_axis_off()
                continue
            _panel(axes, section, section.subjects[number], places)
            _horizontal_axis(axes, section, places, over)
            if number % columns == 0:
                axes.set_ylabel("correct images (%)")
        handles, labels = [], []
        for axes in figure.axes:
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
                if text not in labels:
                    handles.append(handle)
                    labels.append(text)
        figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), handlelength=1.8)
        what = "quality" if over == "quality" else "bits per pixel"
        return to_svg(figure, name, f"Share of correct images against {what}, one panel per trained model")


def _positions(section: Section, over: str) -> dict[Variant, float]:
    if over == "rate":
        rates = {variant: section.rate_bpp(variant) for variant in section.variants}
        return {variant: rate for variant, rate in rates.items() if rate is not None}
    return {variant: float(number) for number, variant in enumerate(section.variants)}


def _panel(axes: Axes, section: Section, subject: Subject, places: dict[Variant, float]) -> None:
    short = section.short_label(subject)
    title = short if short == subject.label or subject.train_quality == "unknown" else f"trained on {short}"
    axes.set_title(shorten(title, 44), loc="left")
    # the first colour is that of the clean pass, also where it was not evaluated
    for number, attack in enumerate(section.attacks, 0 if section.clean else 1):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        label: str | None = "no attack" if attack.is_none else attack.label
        for codec in sorted({codec for codec, quality in places if quality is not None}):
            variants = [variant for variant in places if variant[0] == codec]
            if _line(axes, section, subject, attack, variants, places, colour, marker, label):
                label = None
        originals = [variant for variant in places if variant[1] is None]
        _line(axes, section, subject, attack, originals, places, colour, marker, label, hollow=True)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 25, 50, 75, 100])


def _line(
    axes: Axes,
    section: Section,
    subject: Subject,
    attack: Attack,
    variants: Sequence[Variant],
    places: dict[Variant, float],
    colour: str,
    marker: str,
    label: str | None,
    hollow: bool = False,
) -> bool:
    """One line with its band (a point with its bar where there is one variant); False when nothing is known."""
    known: list[tuple[float, Point]] = []
    for variant in sorted(variants, key=lambda item: places[item]):
        point = section.point(subject, variant, attack)
        if point is not None and not math.isnan(point.value):
            known.append((places[variant], point))
    if not known:
        return False
    x = [place for place, _ in known]
    values, low, high = (
        np.array([100 * (math.nan if value is None else value) for value in column])
        for column in zip(*((point.value, point.low, point.high) for _, point in known), strict=True)
    )
    if len(x) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, linewidth=1.2)
    axes.plot(
        x, values, color=colour, marker=marker, label=label, markerfacecolor="white" if hollow else colour
    )
    if hollow:
        axes.axhline(values[0], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
    return True


def _horizontal_axis(axes: Axes, section: Section, places: dict[Variant, float], over: str) -> None:
    if over == "rate":
        axes.set_xscale("log")
        plain_log_ticks(axes, list(places.values()))
        axes.set_xlabel("mean bits per pixel (log scale)")
        return
    labels = [section.variant_label(variant).replace("original", "orig.") for variant in places]
    crowded = len(labels) > 8 or max(map(len, labels)) > 6
    axes.set_xticks(list(places.values()), labels, rotation=90 if crowded else 0)
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("test quality")


def matrix(section: Section, attack: Attack, name: str) -> str:
    """Train × test heat map of the share of correct images in percent, with its numbers."""
    values = [
        [_percent(section.point(subject, variant, attack)) for variant in section.variants]
        for subject in section.subjects
    ]
    what = "Accuracy" if attack.is_none else f"Robust accuracy under {attack.label}"
    return heat_map(
        np.array(values),
        rows=[shorten(section.short_label(subject), 36) for subject in section.subjects],
        columns=[section.variant_label(variant) for variant in section.variants],
        axis_labels=("test quality", "trained on"),
        name=name,
        label=f"{what} in percent, trained condition by test quality",
    )


def _percent(point: Point | None) -> float:
    return math.nan if point is None else 100 * point.value


def class_drops(
    classes: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], name: str
) -> str:
    """Recall of each class under the reference (first column, percent) and its change under each other column.

    `values` holds (classes × columns) percentages: the recall, then the drops in percentage points.
    """
    return heat_map(
        np.array(values, dtype=np.float64),
        rows=[shorten(text) for text in classes],
        columns=columns,
        axis_labels=("test quality", ""),
        name=name,
        label="Recall of each class at the best quality in percent, and its change at the others in points",
        diverging_from=1,
    )


def rate_distortion(section: Section, name: str) -> str:
    """Mean PSNR and SSIM against mean bits per pixel, the qualities written at the points."""
    assert section.data is not None
    found = [
        (variant, summary)
        for variant in section.encoded_variants()
        if variant[1] is not None
        and (summary := section.data.summary(variant, section.split))
        and summary.num_measured
    ]
    rates = [summary.mean_rate_bpp for _, summary in found]
    with open_figure(7.6, 2.7) as figure:
        pair = figure.subplots(1, 2)
        named: list[tuple[Axes, list[tuple[float, float, str]]]] = []
        for axes, measure, title in zip(
            pair, ("mean_psnr_db", "mean_ssim"), ("PSNR (dB)", "SSIM (luma)"), strict=True
        ):
            labels: list[tuple[float, float, str]] = []
            for number, codec in enumerate(sorted({variant[0] for variant, _ in found})):
                line = sorted(
                    (summary.mean_rate_bpp, getattr(summary, measure), f"q{variant[1]}")
                    for variant, summary in found
                    if variant[0] == codec and getattr(summary, measure) is not None
                )
                x, y = [item[0] for item in line], [item[1] for item in line]
                axes.plot(x, y, color=COLOURS[number], marker=MARKERS[number], label=codec)
                labels += line
            axes.set_xscale("log")
            plain_log_ticks(axes, rates)
            axes.set_xlabel("mean bits per pixel (log scale)")
            axes.set_ylabel(title)
            axes.margins(y=0.12)
            named.append((axes, labels))
        figure.draw_without_rendering()  # only now is known where the points lie on the page
        for axes, labels in named:
            pixels = axes.transData.transform([(x, y) for x, y, _ in labels])
            places = [(float(x), float(y)) for x, y in pixels * 72 / figure.dpi]
            offsets = label_offsets(places, [text for _, _, text in labels])
            for (x, y, text), offset in zip(labels, offsets, strict=True):
                if offset is not None:
                    at = {"xytext": offset, "textcoords": "offset points"}
                    axes.annotate(text, (x, y), fontsize=NAME_POINTS, **at)
        return to_svg(figure, name, "PSNR and SSIM against bits per pixel, one point per quality")
