"""The report's figures, as inline SVG that is byte for byte the same for the same rows.

Text stays text (searchable, and small); names from the data are escaped by matplotlib's XML writer, and its
formula language is off, so a `$` is a dollar sign.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from limla.reporting.encodings import Variant
from limla.reporting.sections import Attack, Point, Section, Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart by people with any common colour blindness; markers repeat the distinction
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _FAINT = "#222222", "#8a8a8a"
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_PANELS_PER_ROW = 3
_LABEL_LENGTH = 30
_NAME_POINTS = 7.5


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of width × height inches in the report's style, without pyplot's global state."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # layout measures with a font that lacks, say, Chinese; the browser that shows the text does not
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def _svg(figure: Figure, name: str, label: str) -> str:
    """Inline SVG: no prologue, no namespaces (HTML knows them), ids of its own, scaled to its column."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": f"limla-{name}"}):
        figure.savefig(
            buffer,
            format="svg",
            bbox_inches="tight",
            pad_inches=0.04,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None
    width_px = float(box[1].split()[2]) * 96 / 72
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"\s*<!--.*?-->", "", body, flags=re.DOTALL)
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}" '
        f'style="width:100%;max-width:{width_px:.0f}px;height:auto">{body.strip()}'
    )


def shorten(text: str, length: int = _LABEL_LENGTH) -> str:
    """`text`, its middle replaced by an ellipsis where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def curves(section: Section, over: str, name: str) -> str:
    """Accuracy and robust accuracy with their 95% bands, one panel per subject.

    `over` is "quality" (evenly spaced, the originals on the right) or "rate" (mean bits per pixel, log scale).
    """
    # four panels stand better as two by two than as three and one
    columns = 2 if len(section.subjects) in (2, 4) else min(_PANELS_PER_ROW, len(section.subjects))
    num_rows = math.ceil(len(section.subjects) / columns)
    places = _positions(section, over)
    legend_rows = math.ceil(len(section.attacks) / 4)
    with _figure(max(3.5 * columns, 4.6), 2.75 * num_rows + 0.25 * legend_rows + 0.15) as figure:
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
        return _svg(figure, name, f"Share of correct images against {what}, one panel per trained model")


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
        _plain_log_ticks(axes, list(places.values()))
        axes.set_xlabel("mean bits per pixel (log scale)")
        return
    labels = [section.variant_label(variant).replace("original", "orig.") for variant in places]
    crowded = len(labels) > 8 or max(map(len, labels)) > 6
    axes.set_xticks(list(places.values()), labels, rotation=90 if crowded else 0)
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_xlabel("test quality")


def _plain_log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks of 1, 2 and 5 times powers of ten, written as plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) / 1.25, max(values) * 1.25
    ticks = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in (1, 2, 5)
    ]
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(
        FixedLocator(inside if len(inside) > 1 else sorted({min(values), max(values)}))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def matrix(section: Section, attack: Attack, name: str) -> str:
    """Train × test heat map of the share of correct images in percent, with its numbers."""
    values = [
        [_percent(section.point(subject, variant, attack)) for variant in section.variants]
        for subject in section.subjects
    ]
    what = "Accuracy" if attack.is_none else f"Robust accuracy under {attack.label}"
    return _heat_map(
        np.array(values),
        rows=[shorten(section.short_label(subject), 36) for subject in section.subjects],
        columns=[section.variant_label(variant) for variant in section.variants],
        axis_labels=("test quality", "trained on"),
        name=name,
        label=f"{what} in percent, trained condition by test quality",
    )


def _percent(point: Point | None) -> float:
    return math.nan if point is None else 100 * point.value


def _heat_map(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    axis_labels: tuple[str, str],
    name: str,
    label: str,
    diverging_from: int | None = None,
) -> str:
    """(R, K) percentages as coloured cells with numbers; NaN cells stay empty.

    Columns from `diverging_from` on are differences, coloured around zero.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, TwoSlopeNorm
    from matplotlib.patches import Rectangle

    split = values.shape[1] if diverging_from is None else diverging_from
    shares = (colormaps["Blues"], Normalize(0, 135))
    limit = float(np.nanmax(np.abs(values[:, split:]), initial=30.0))
    drops = (colormaps["PuOr_r"], TwoSlopeNorm(0, -1.4 * limit, 1.4 * limit))
    with _figure(0.5 * len(columns) + 1.9, 0.27 * len(rows) + 0.8) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            if np.isnan(value):
                axes.text(column, row, "–", ha="center", va="center", color=_FAINT)
                continue
            colours, norm = shares if column < split else drops
            colour = colours(norm(value))
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
            luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
            sign = "+" if column >= split and round(value, 1) else ""
            text = f"{round(-value if column >= split else value, 1) + 0.0:{sign}.1f}".replace("-", "−")
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if luminance < 0.5 else _INK,
            )
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), columns, rotation=45 if max(map(len, columns)) > 8 else 0)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        return _svg(figure, name, label)


def class_drops(
    classes: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], name: str
) -> str:
    """Recall of each class under the reference (first column, percent) and its change under each other column.

    `values` holds (classes × columns) percentages: the recall, then the drops in percentage points.
    """
    return _heat_map(
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
    with _figure(7.6, 2.7) as figure:
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
            _plain_log_ticks(axes, rates)
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
                    axes.annotate(text, (x, y), fontsize=_NAME_POINTS, **at)
        return _svg(figure, name, "PSNR and SSIM against bits per pixel, one point per quality")


def label_offsets(
    places: Sequence[tuple[float, float]], texts: Sequence[str]
) -> list[tuple[float, float] | None]:
    """Where each text begins, from its place, all in typographic points; None where it would cover another.

    Tried in turn: below right, above left, above right, below left. The rightmost point chooses first, so that of
    two near points each has its name on its own side.
    """
    height = _NAME_POINTS
    taken: list[tuple[float, float, float]] = []
    offsets: list[tuple[float, float] | None] = [None] * len(places)
    for number in sorted(range(len(places)), key=lambda number: -places[number][0]):
        (x, y), text = places[number], texts[number]
        width = 0.65 * _NAME_POINTS * len(text)  # DejaVu Sans: a digit is 0.64 of the font's height
        for right, up in ((4.0, -9.0), (-4 - width, 4.0), (4.0, 4.0), (-4 - width, -9.0)):
            left, bottom = x + right, y + up
            if all(
                left >= other + long or other >= left + width or abs(bottom - base) >= height
                for other, base, long in taken
            ):
                taken.append((left, bottom, width))
                offsets[number] = (right, up)
                break
    return offsets
