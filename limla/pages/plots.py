"""Interactive plots as HTML: plotly's JSON, embedded; knows nothing of rows.

The page holds plotly.js once. Each plot is an empty element and a block of JSON that `plots.js` draws when it comes
into view. Equal traces give equal bytes: element ids are given by the caller, and values travel as plain numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from limla.pages.svg import COLOURS, FAINT, INK

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
"""Markers, in plotly's words."""
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
_GRID = "#e4e4e4"
_FONT = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif'


@dataclass(frozen=True)
class Place:
    """One point of a line: where it stands, its value with interval, and the text shown under the pointer.

    Attributes:
        x: on the horizontal axis: a number, or the place of a category.
        y: NaN leaves a gap.
        low, high: ends of the interval; None without.
        text: plain text; line breaks are "\\n".
    """

    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Style:
    """How a line looks; the number-th of its figure, `dash` for a second distinction."""

    number: int
    dash: int = 0
    hollow: bool = False

    @property
    def colour(self) -> str:
        """Of the colour-blind-safe palette; it repeats after seven, with the next dash."""
        return COLOURS[self.number % len(COLOURS)]

    @property
    def symbol(self) -> str:
        """Plotly's name of the marker."""
        return SYMBOLS[self.number % len(SYMBOLS)]

    @property
    def dashes(self) -> str:
        """Plotly's name of the line's pattern."""
        return DASHES[(self.dash + self.number // len(COLOURS)) % len(DASHES)]


def line(
    places: Sequence[Place], name: str, style: Style, level: bool = False, bars: bool = False
) -> list[dict[str, Any]]:
    """A line with markers and its interval as a band (as bars where there is one point).

    Args:
        places: from left to right; lines break at NaN.
        name: of the legend entry that shows and hides it.
        style: colour, marker, pattern.
        level: draw a thin horizontal line through the first point, across the plot.
        bars: show intervals as bars, where many bands would cover each other.
    """
    known = [place for place in places if not math.isnan(place.y)]
    if not known:
        return []
    x = [place.x for place in known]
    traces: list[dict[str, Any]] = []
    bounded = [place for place in known if place.low is not None and place.high is not None]
    main: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if len(known) > 1 else "markers",
        "x": x,
        "y": [place.y for place in known],
        "name": text(name),
        "legendgroup": text(name),
        "hovertext": [text(place.text) for place in known],
        "hoverinfo": "text",
        "line": {"color": style.colour, "width": 2, "dash": style.dashes},
        "marker": {
            "color": "#ffffff" if style.hollow else style.colour,
            "symbol": style.symbol,
            "size": 7,
            "line": {"color": style.colour, "width": 1.6 if style.hollow else 0},
        },
    }
    if len(known) > 1 and len(bounded) == len(known) and not bars:
        edge = [(p.x, p.high) for p in known] + [(p.x, p.low) for p in reversed(known)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [item[0] for item in edge],
                "y": [item[1] for item in edge],
                "fill": "toself",
                "fillcolor": _faded(style.colour),
                "line": {"width": 0},
                "hoverinfo": "skip",
                "legendgroup": text(name),
            }
        )
    elif bounded:
        main["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [0.0 if p.high is None else p.high - p.y for p in known],
            "arrayminus": [0.0 if p.low is None else p.y - p.low for p in known],
            "color": style.colour,
            "thickness": 1.2,
            "width": 0,
        }
    return [*traces, main, *([_level(known[0].y, name, style)] if level else [])]


def _level(y: float, name: str, style: Style) -> dict[str, Any]:
    """A thin dashed line across the plot; `plots.js` stretches it to the axis."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [y, y],
        "xaxis": "x2",
        "hoverinfo": "skip",
        "legendgroup": text(name),
        "line": {"color": style.colour, "width": 1, "dash": "dash"},
        "opacity": 0.7,
    }


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def text(value: str) -> str:
    """Text for a plot, where plotly would read tags and entities; a line break is "\\n"."""
    return escape(value, quote=False).replace("\n", "<br>")


def plot(
    name: str,
    traces: Iterable[dict[str, Any]],
    x_axis: dict[str, Any],
    y_axis: dict[str, Any],
    label: str,
    height_px: int = 310,
    title: str = "",
) -> Markup:
    """One plot as HTML.

    Args:
        name: the element's id, unique on the page.
        traces: of plotly, as `line` makes them.
        x_axis, y_axis: plotly's axes, as `categories`, `logarithmic`, `linear` and `percent` make them.
        label: what it shows, for those who do not see it.
        height_px: of the element.
        title: above it; plain text.

    Raises `ValueError` for a property that plotly does not know.
    """
    import plotly.graph_objects as graph_objects

    layout = {
        "font": {"family": _FONT, "size": 12, "color": INK},
        "margin": {"l": 46, "r": 10, "t": 26, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": _axis(x_axis),
        "xaxis2": {"overlaying": "x", "range": [0, 1], "visible": False, "fixedrange": True, "matches": None},
        "yaxis": _axis(y_axis),
        "template": None,
    }
    figure = graph_objects.Figure({"data": list(traces), "layout": layout})
    found = json.dumps(figure.to_plotly_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # in a script element only "<" can end it or begin a comment
    data = found.replace("<", "\\u003c")
    heading = f'<p class="plot-title">{escape(title)}</p>' if title else ""
    return Markup(
        f'<div class="panel">{heading}'
        f'<div class="plot" id="{escape(name)}" role="img" aria-label="{escape(label)}" '
        f'style="height:{height_px}px"></div>'
        f'<script type="application/json" id="{escape(name)}-data">{data}</script></div>'
    )


def _axis(own: dict[str, Any]) -> dict[str, Any]:
    common = {"gridcolor": _GRID, "linecolor": FAINT, "zeroline": False, "ticks": "outside", "ticklen": 3}
    return {**common, **own}


def categories(labels: Sequence[str], title: str) -> dict[str, Any]:
    """An axis of evenly spaced names, at 0, 1, 2, …"""
    crowded = len(labels) > 8 or max(map(len, labels), default=0) > 6
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [text(label) for label in labels],
        "tickangle": -90 if crowded else 0,
        "range": [-0.4, len(labels) - 0.6],
        "title": {"text": text(title)},
        "automargin": True,
    }


def logarithmic(values: Sequence[float], title: str) -> dict[str, Any]:
    """A logarithmic axis with ticks of 1, 2 and 5 times powers of ten, written as plain numbers."""
    low, high = min(values) / 1.25, max(values) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [tick for power in powers for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)]
    inside = [tick for tick in ticks if low <= tick <= high]
    shown = inside if len(inside) > 1 else sorted({min(values), max(values)})
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [f"{tick:.3g}" for tick in shown],
        "range": [math.log10(low), math.log10(high)],
        "title": {"text": text(title)},
    }


def linear(title: str, ticks: Sequence[tuple[float, str]] = ()) -> dict[str, Any]:
    """A plain axis; `ticks` are (value, text) where they are not plotly's own."""
    own: dict[str, Any] = {"title": {"text": text(title)}}
    if ticks:
        values, texts = zip(*ticks, strict=True)
        own |= {"tickmode": "array", "tickvals": list(values), "ticktext": [text(item) for item in texts]}
    return own


def percent(title: str = "correct images (%)") -> dict[str, Any]:
    """0 to 100."""
    return {"range": [-3, 103], "tickvals": [0, 25, 50, 75, 100], "title": {"text": text(title), "standoff": 4}}


def legend(entries: Sequence[tuple[str, Style]]) -> Markup:
    """A figure's legend: buttons that show and hide a line in all its panels."""
    items = "".join(
        f'<button type="button" aria-pressed="true" data-series="{escape(text(name))}">{_swatch(style)}'
        f"{escape(name)}</button>"
        for name, style in entries
    )
    return Markup(f'<div class="legend">{items}</div>')


_PATTERNS = {"solid": "", "dot": "2 3", "dash": "6 3", "dashdot": "6 3 2 3", "longdash": "10 4"}
_SHAPES = {
    "circle": '<circle cx="14" cy="6" r="3.6"/>',
    "square": '<rect x="10.8" y="2.8" width="6.4" height="6.4"/>',
    "triangle-up": '<path d="M14 1.6 18.2 9H9.8Z"/>',
    "diamond": '<path d="M14 1.4 18.4 6 14 10.6 9.6 6Z"/>',
    "triangle-down": '<path d="M14 10.4 18.2 3H9.8Z"/>',
    "cross": '<path d="M12.4 2h3.2v2.4H18v3.2h-2.4V10h-3.2V7.6H10V4.4h2.4Z"/>',
    "x": '<path d="m11 2 3 2.6L17 2l1 1-2.7 3L18 9l-1 1-3-2.6L11 10l-1-1 2.7-3L10 3Z"/>',
}


def _swatch(style: Style) -> str:
    fill = "#fff" if style.hollow else style.colour
    return (
        f'<svg class="swatch" viewBox="0 0 28 12" width="28" height="12" aria-hidden="true" fill="{fill}" '
        f'stroke="{style.colour}"><path d="M0 6H28" stroke-width="2" stroke-dasharray="{_PATTERNS[style.dashes]}"/>'
        f'<g stroke-width="{1.6 if style.hollow else 0}">{_SHAPES[style.symbol]}</g></svg>'
    )


_MAX_OPEN_PANELS = 6


@dataclass(frozen=True)
class Panels:
    """One figure: plots side by side under one legend; those beyond the first few stand folded."""

    legend: Markup
    shown: list[Markup]
    folded: list[Markup]


def panels(entries: Sequence[tuple[str, Style]], plots: Sequence[Markup]) -> Panels:
    """A figure of `plots` whose lines are named by `entries`."""
    return Panels(legend(entries), list(plots[:_MAX_OPEN_PANELS]), list(plots[_MAX_OPEN_PANELS:]))


def plotly_script() -> str:
    """The source of plotly.js, as the plotly package brings it."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    assert "</script" not in source.lower()
    return source


def script_hash(source: str) -> str:
    """How a content security policy names an inline script: only scripts so named run on the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode('utf-8')).digest()).decode('ascii')}'"
