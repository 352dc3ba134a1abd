"""Inline SVG in the pages' style, byte for byte the same for the same values; knows nothing of rows.

Text stays text (searchable, and small); names from the data are escaped by matplotlib's XML writer, and its
formula language is off, so a `$` is a dollar sign.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart by people with any common colour blindness; markers of plots repeat the distinction
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
INK, FAINT = "#222222", "#8a8a8a"
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_LABEL_LENGTH = 30
_LEVEL_LABEL = 8
"""Characters of a column label that stands level."""
_LABEL_INCHES = 0.08
"""Width of a letter of a tick label, about, at `font.size`."""


@contextmanager
def open_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of width × height inches in the pages' style, without pyplot's global state."""
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


def to_svg(figure: Figure, name: str, label: str) -> str:
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


def heat_map(
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
    # room for the longest row label, whatever the number of columns
    beside = max(1.9, _LABEL_INCHES * max(map(len, rows), default=0) + 0.7)
    longest = max(map(len, columns))
    # and for the longest column label where they stand aslant
    below = _LABEL_INCHES * longest if longest > _LEVEL_LABEL else 0.0
    with open_figure(0.5 * len(columns) + beside, 0.27 * len(rows) + 0.8 + below) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            if np.isnan(value):
                axes.text(column, row, "–", ha="center", va="center", color=FAINT)
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
                color="white" if luminance < 0.5 else INK,
            )
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), columns, rotation=45 if longest > _LEVEL_LABEL else 0)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        return to_svg(figure, name, label)
