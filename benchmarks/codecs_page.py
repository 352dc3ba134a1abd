"""The section of docs/results.md about codecs, and its figure, from benchmarks/results/codecs_rd.json."""

from __future__ import annotations

import statistics
from typing import Any

from tables import machine_line, table

from limla.comparison.curves import CodecDifference, Crossing, QualityMean
from limla.comparison.page import better_text, draw_curves


def section(data: dict[str, Any]) -> list[str]:
    """Its parts; empty lines go between them."""
    low, high = data["rates_bpp"]
    part = f", split {data['split']}" if data["split"] else ""
    ranges = f"{low:g} to {high:g} bits per pixel"
    return [
        "## Codecs: rate, distortion and speed",
        f"```\n{data['command']}\n```",
        f"{machine_line(data)}.",
        f"{data['num_images']} photos of {data['photos']}{part}, the same for every codec; up to {data['num_points']} "
        f"qualities of each codec from {ranges}, of JPEG up to {2 * data['num_points'] - 1}. Bits are those of whole "
        f"files. Encoding and decoding took {data['codec_cpu_seconds']:.0f} s of CPU time. How to "
        "read it: [codecs.md](codecs.md).",
        "![PSNR and MS-SSIM against bits per pixel, one line per codec](codecs.svg)",
        "### Against JPEG at equal PSNR, and at equal bits per pixel",
        "Below 0%: fewer bits. Brackets: 95% intervals over the photos. Between the curves of means, and the "
        "mean over the photos’ own curves; only over what both curves reach, which is stated.",
        _differences(data),
        "### Speed of one core",
        "Median over the codec's qualities, in megapixels per second of CPU time.",
        _speeds(data),
        "### The codecs",
        table(
            ["codec", "quality is", "version"],
            [[codec["codec"], codec["knob"], codec["version"]] for codec in data["codecs"]],
        ),
        *[f"Left out: {name}: {reason}." for name, reason in data["left_out"].items()],
    ]


def figure(data: dict[str, Any]) -> bytes:
    """The curves as SVG."""
    return draw_curves([QualityMean(**row) for row in data["means"]])["svg"]


def _differences(data: dict[str, Any]) -> str:
    crossings = [Crossing(**row) for row in data["crossings"]]
    rows = [
        [
            row.codec,
            _value(row.bd_rate_percent, row.bd_rate_low, row.bd_rate_high, 1),
            _value(row.image_bd_rate_percent, row.image_bd_rate_low, row.image_bd_rate_high, 1),
            "–" if row.psnr_low_db is None else f"{row.psnr_low_db:.1f} to {row.psnr_high_db:.1f}",
            _value(row.bd_psnr_db, row.bd_psnr_low, row.bd_psnr_high, 2),
            "; ".join(part for part in (better_text(row, crossings), row.reason) if part),
        ]
        for row in (CodecDifference(**found) for found in data["differences"])
    ]
    head = ["codec", "BD-rate %", "photos' BD-rates %", "over dB", "BD-PSNR dB", "more PSNR than JPEG"]
    return table(head, rows)


def _value(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:+.{digits}f}{interval}"


def _speeds(data: dict[str, Any]) -> str:
    rows = []
    for codec in (each["codec"] for each in data["codecs"]):
        own = [row for row in data["means"] if row["codec"] == codec]
        medians = [statistics.median(row[f"{what}_mpix_per_s"] for row in own) for what in ("encode", "decode")]
        rows.append([codec, *(f"{value:.3g}" for value in medians)])
    return table(["codec", "encoding", "decoding"], rows)
