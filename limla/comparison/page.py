"""The page: curves, tables and how they were measured, in one HTML file; the curves as files beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limla.comparison.choosing import REFERENCE, Contender
from limla.comparison.curves import LEAST_GAP_DB, CodecDifference, Crossing, QualityMean
from limla.comparison.settings import CompareSettings
from limla.comparison.tables import CROSSINGS, DIFFERENCES, MEANS, ROWS
from limla.files import write_bytes
from limla.pages.page import render, versions
from limla.pages.plots import Panels, Place, Style, line, linear, logarithmic, panels, plot
from limla.pages.shown import Column, ShownTable, number, shown_table, signless
from limla.pages.svg import open_figure

FIGURE = "rate-distortion"
"""Name of the drawn curves, .svg and .png."""
_PACKAGES = ("limla", "numpy", "scipy", "scikit-image", "bjontegaard", "plotly")
_RATE = "mean bits per pixel (log scale)"
_MATPLOTLIB_DASHES = {"solid": "-", "dot": ":", "dash": "--", "dashdot": "-.", "longdash": (0, (8, 2))}
_MATPLOTLIB_MARKERS = {
    "circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "triangle-down": "v", "cross": "P", "x": "X",
}  # fmt: skip


def write_page(
    path: Path,
    settings: CompareSettings,
    chosen: Sequence[Contender],
    means: Sequence[QualityMean],
    differences: Sequence[CodecDifference],
    crossings: Sequence[Crossing],
    left_out: dict[str, str],
    num_images: int,
) -> None:
    """Write the page, and the drawn curves beside it."""
    styles = _styles(means)
    for ending, data in draw_curves(means).items():
        write_bytes(path.with_name(f"{FIGURE}.{ending}"), data)
    values = {
        "title": f"Codecs on {settings.folder.resolve().name}",
        "num_images": num_images,
        "split": settings.split,
        "num_points": settings.num_points,
        "rates": "over its whole range"
        if settings.rates_bpp is None
        else "from {:g} to {:g} bits per pixel".format(*settings.rates_bpp),
        "reference": REFERENCE,
        "distortion": _figure(means, styles, _DISTORTIONS, "distortion"),
        "speed": _figure(means, styles, _SPEEDS, "speed"),
        "differences": _difference_table(differences, crossings),
        "means": _mean_table(means),
        "codecs": _codec_table(chosen),
        "left_out": left_out,
        "files": [ROWS, *(f"{name}.csv" for name in (MEANS, DIFFERENCES, CROSSINGS)), f"{FIGURE}.svg"],
        "versions": versions(_PACKAGES),
    }
    write_bytes(path, render("limla.comparison", "comparison.html.j2", values).encode("utf-8"))


_Value = Callable[[QualityMean], float | None]
_DISTORTIONS: tuple[tuple[str, _Value], ...] = (
    ("PSNR (dB)", lambda mean: mean.mean_psnr_db),
    ("SSIM (luma)", lambda mean: mean.mean_ssim),
    ("MS-SSIM (luma)", lambda mean: mean.mean_ms_ssim),
)
_SPEEDS: tuple[tuple[str, _Value], ...] = (
    ("encoding: megapixels per CPU second", lambda mean: mean.encode_mpix_per_s),
    ("decoding: megapixels per CPU second", lambda mean: mean.decode_mpix_per_s),
)


def _figure(
    means: Sequence[QualityMean], styles: dict[str, Style], measures: Sequence[tuple[str, _Value]], name: str
) -> Panels:
    """One panel for each measure against the mean rate, one line for each codec."""
    x_axis = logarithmic([mean.mean_rate_bpp for mean in means], _RATE)
    plots = []
    for place, (title, value_of) in enumerate(measures):
        traces: list[dict[str, Any]] = []
        values: list[float] = []
        for codec, style in styles.items():
            places = [
                Place(mean.mean_rate_bpp, value, None, None, _told(mean, title, value))
                for mean in means
                if mean.codec == codec and (value := value_of(mean)) is not None
            ]
            values += [each.y for each in places]
            traces += line(places, codec, style)
        if traces:
            y_axis = logarithmic(values, title) if name == "speed" else linear(title)
            label = f"{title} against mean bits per pixel, one line per codec, one point per quality"
            plots.append(plot(f"{name}-{place}", traces, x_axis, y_axis, label, height_px=400, title=title))
    return panels(list(styles.items()), plots)


def _told(mean: QualityMean, title: str, value: float) -> str:
    return f"{mean.codec} {mean.quality}\n{title}: {value:.4g}\n{mean.mean_rate_bpp:.3g} bpp, n = {mean.num_images}"


def draw_curves(means: Sequence[QualityMean]) -> dict[str, bytes]:
    """Ending ("svg", "png") → PSNR and MS-SSIM (SSIM where photos are too small for it) against rate, drawn.

    Codecs have the colours and markers of the page, by their order in `means`; equal means give equal bytes.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import NullLocator

    styles = _styles(means)
    has_ms_ssim = any(mean.mean_ms_ssim is not None for mean in means)
    measures = (_DISTORTIONS[0], _DISTORTIONS[2 if has_ms_ssim else 1])
    with open_figure(9.5, 4.2) as figure:
        for axes, (title, value_of) in zip(figure.subplots(1, 2), measures, strict=True):
            shown: list[float] = []
            for codec, style in styles.items():
                found = [
                    (mean.mean_rate_bpp, value)
                    for mean in means
                    if mean.codec == codec and (value := value_of(mean)) is not None
                ]
                shown += [rate for rate, _ in found]
                axes.plot(
                    [rate for rate, _ in found], [value for _, value in found], label=codec, color=style.colour,
                    marker=_MATPLOTLIB_MARKERS[style.symbol], linestyle=_MATPLOTLIB_DASHES[style.dashes],
                )  # fmt: skip
            ticks = logarithmic(shown, "")
            axes.set_xscale("log")
            axes.set_xticks(ticks["tickvals"], ticks["ticktext"])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(_RATE)
            axes.set_ylabel(title)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
        files: dict[str, bytes] = {}
        with rc_context({"svg.hashsalt": "limla-codecs"}):
            for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=ending, metadata=metadata, dpi=150, facecolor="white")
                files[ending] = buffer.getvalue()
    return files


def _styles(means: Sequence[QualityMean]) -> dict[str, Style]:
    codecs = dict.fromkeys(mean.codec for mean in means)
    return {codec: Style(place) for place, codec in enumerate(codecs)}


def _difference_table(
    differences: Sequence[CodecDifference], crossings: Sequence[Crossing]
) -> ShownTable | None:
    rows = [
        (
            _breakable(row.codec),
            _with_bounds(row.bd_rate_percent, row.bd_rate_low, row.bd_rate_high, 1),
            _range(row.psnr_low_db, row.psnr_high_db, 1),
            _with_bounds(row.image_bd_rate_percent, row.image_bd_rate_low, row.image_bd_rate_high, 1),
            f"{row.num_compared} of {row.num_images}",
            _with_bounds(row.bd_psnr_db, row.bd_psnr_low, row.bd_psnr_high, 2),
            _range(row.rate_low_bpp, row.rate_high_bpp, 3),
            "; ".join(part for part in (better_text(row, crossings), row.reason) if part),
        )
        for row in differences
    ]
    columns = [
        "Codec", Column("BD-rate %"), Column("over dB"), Column("mean of photos’ BD-rates %"),
        Column("photos compared"), Column("BD-PSNR dB"), Column("over bpp"), "has more PSNR",
    ]  # fmt: skip
    caption = (
        f"Against {REFERENCE}: below 0, fewer bits at equal PSNR; above 0 dB, more PSNR at equal bits. Brackets: 95% "
        "intervals over the photos. Shares are of the rates that both reach, on a logarithmic scale."
    )
    return shown_table(caption, columns, rows, f"{DIFFERENCES}.csv")


def _breakable(label: str) -> str:
    """A label that may go on in the next line after ":", "=" and ","."""
    return re.sub("([:=,])", "\\1\u200b", label)


def better_text(row: CodecDifference, crossings: Sequence[Crossing]) -> str:
    """Where the codec has more PSNR than the reference: "at all rates", "at 18%: below 0.391 bpp"; "" unknown.

    "At all rates" and "at no rate" are said of every rate that both reach, never of most.
    """
    if row.better_share is None or row.largest_gap_db is None:
        return ""
    if abs(row.largest_gap_db) < LEAST_GAP_DB:
        return f"within {LEAST_GAP_DB:g} dB"
    if row.better_share in (0, 1):
        return "at all rates" if row.better_share == 1 else "at no rate"
    share = f"at {min(max(round(100 * row.better_share), 1), 99)}%"
    sides = [
        f"{crossing.better} {crossing.rate_bpp:.3f} bpp"
        for crossing in crossings
        if crossing.codec == row.codec
    ]
    if sides:
        return f"{share}: {', '.join(sides)}"
    # no crossing that counts: what lies on the other side of the reference is nearer to it than that
    return f"{share}, {'elsewhere' if row.largest_gap_db > 0 else 'there'} within {LEAST_GAP_DB:g} dB"


def _with_bounds(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" [{signless(low, digits)}, {signless(high, digits)}]"
    return f"{value:+.{digits}f}".replace("-", "−") + interval


def _range(low: float | None, high: float | None, digits: int) -> str:
    return "–" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _mean_table(means: Sequence[QualityMean]) -> ShownTable | None:
    rows = [
        (
            _breakable(row.codec),
            str(row.quality),
            number(row.mean_rate_bpp, 3),
            number(row.mean_psnr_db) + (f" ({row.num_identical} identical)" if row.num_identical else ""),
            number(row.mean_ssim, 4),
            number(row.mean_ms_ssim, 4),
            *(
                number(value, 1)
                for value in (
                    row.encode_images_per_s, row.encode_mpix_per_s, row.decode_images_per_s, row.decode_mpix_per_s,
                )
            ),
        )
        for row in means
    ]  # fmt: skip
    columns = [
        "Codec", Column("quality"), Column("bpp"), Column("PSNR dB"), Column("SSIM"), Column("MS-SSIM"),
        Column("encoded images/s"), Column("encoded Mpixel/s"), Column("decoded images/s"), Column("decoded Mpixel/s"),
    ]  # fmt: skip
    few = {row.num_ms_ssim for row in means} - {means[0].num_images}
    caption = "Means over the photos; speeds are per second of CPU time, which is what one core does." + (
        f" MS-SSIM is of the {min(few)} photos with sides of at least 176 pixels." if few else ""
    )
    return shown_table(caption, columns, rows, f"{MEANS}.csv")


def _codec_table(chosen: Sequence[Contender]) -> ShownTable | None:
    rows = [
        (
            _breakable(contender.label),
            contender.codec.scale.knob,
            ", ".join(f"{name} {value}" for name, value in contender.codec.settings().items()),
            contender.codec.version(),
        )
        for contender in chosen
    ]
    return shown_table("The codecs as they were built.", ["Codec", "quality is", "settings", "version"], rows)
