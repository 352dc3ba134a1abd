"""docs/benchmarks.md and docs/benchmarks.svg, made from the JSON of benchmarks/compare.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import DALI_AS_DOCUMENTED, LIMLA_DALI, WEBDATASET_PIL
from goals import goals_table
from tables import machine_line, ratio_row, table

from limla.benchmarking.comparisons import (
    DECODE_LIMIT,
    LIMLA_ATTACKS,
    REENCODE_LIMIT,
    REENCODE_SHARED_LIMIT,
    TORCHATTACKS,
)

_TITLES = {
    "reencode": "Re-encode",
    "load": "Load",
    "evaluate": "Evaluate",
    "end-to-end": "End to end",
    "growth": "20 times the images",
}


def write_page(results: Path, docs: Path) -> None:
    """Write docs/benchmarks.md, and docs/benchmarks.svg where there is something to draw."""
    found = {name: _read(results / f"{name}.json") for name in _TITLES}
    measured = {name: data for name, data in found.items() if data is not None}
    parts = ["# Benchmarks", _INTRODUCTION, "## Asked for and reached", goals_table(measured)]
    if {"reencode", "load", "evaluate"} <= measured.keys():
        _draw(measured, docs / "benchmarks.svg")
        parts.append("![Images per second of limla, its limits and its peers](benchmarks.svg)")
    for name, title in _TITLES.items():
        parts.append(f"## {title}")
        data = found[name]
        parts += ["Not measured yet."] if data is None else [*_heading(data), *_SECTIONS[name](data)]
    parts += ["## GPU", *_gpu(_read(results / "gpu.json"))]
    (docs / "benchmarks.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_INTRODUCTION = """\
`make bench RAW=folder` measures everything here on a machine of your own and writes this page; `limla bench` measures
limla against its limits and plain torchattacks only, on your photos or shards. Both work alike:

- Contenders take turns (A B C A B C …), and a ratio is taken within a round: what else the machine does disturbs
  neighbours in time alike. Shown are medians over the rounds, with the lowest and highest.
- Every round of a contender is a fresh process; imports are done before the clock starts. Opening, listing and
  starting workers count. Loading makes two passes over all images in it: the *first pass*, and the later one, which
  *images/s* and the ratios are of. The attacks' first pass is a short one; re-encoding makes only one. *First batch* is
  the time to the first images in the first pass. The files are in the system's cache in every pass. What the contender
  before has not yet written to disk is waited for.
- What `limla evaluate` does once for a checkpoint, a faster copy of the model, is made before the attacks' clock; its
  seconds stand below their table. The time from start to end counts it.
- Memory is sampled during a pass that is not timed: the proportional set size of the process and its children.
  *Private* is the part of it that the kernel cannot drop: without the pages of mapped files.
- In that pass the contenders' work is compared too: equal numbers of images; the bytes at each quality within 5%; each
  picture's mean, and the mean picture, within 0.005 of 1; predictions under attack on at least 90% of the images (one
  may always differ). If they differ, that benchmark's results are not written.
- Everyone gets as many threads or worker processes as there are cores.
- A contender that lacks something is left out, and its section says what: SPDL needs FFmpeg's shared libraries
  (`apt install --no-install-recommends ffmpeg` on Debian and Ubuntu)."""


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _heading(data: dict[str, Any]) -> list[str]:
    return [f"{data['what']}.", f"```\n{data['command']}\n```", f"{machine_line(data)}."]


def _mb(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _title(row: dict[str, Any]) -> str:
    return f"{row['contender']}, {row['part']}" if row.get("part") else row["contender"]


def _contenders(data: dict[str, Any], references: Sequence[str]) -> list[str]:
    """The table of a comparison, then how each contender is set up and what was skipped."""
    shown = [name for name in references if any(row["reference"] == name for row in data["ratios"])]
    head = [
        "",
        "images/s",
        "lowest–highest",
        "first pass",
        "CPU ms/image",
        "first batch s",
        "peak MB",
        "private MB",
    ]
    body: list[list[str]] = []
    for row in data["contenders"]:
        ratios = [ratio_row(data, row["contender"], row["part"], name) for name in shown]
        body.append(
            [
                _title(row),
                f"{row['images_per_s']:.1f}",
                f"{row['images_per_s_low']:.1f}–{row['images_per_s_high']:.1f}",
                "–" if row["first_pass_images_per_s"] is None else f"{row['first_pass_images_per_s']:.1f}",
                f"{row['cpu_ms_per_image']:.2f}",
                f"{row['first_batch_s']:.2f}",
                _mb(row["peak_memory_mb"]),
                _mb(row["peak_private_mb"]),
                *(f"{ratio['median']:.2f}" if ratio else "1" for ratio in ratios),
            ]
        )
    setups = dict.fromkeys((row["contender"], row["setup"]) for row in data["contenders"])
    return [
        table([*head, *(f"× {name}" for name in shown)], body),
        "\n".join(f"- **{name}**: {setup}." for name, setup in setups),
        *(f"Not run: {name}: {reason}." for name, reason in data["skipped"].items()),
    ]


def _reencode(data: dict[str, Any]) -> list[str]:
    settings = data["settings"]
    return [
        f"{settings['images']:,} photos ({settings['num_distinct_photos']} different) with a side of at least "
        f"{settings['min_side']} pixels, {settings['rounds']} rounds. *First batch* has no meaning here.",
        f"The *{REENCODE_LIMIT}* encodes RGB, so libjpeg converts the colours at each quality; limla converts them "
        f"once for all. So does *{REENCODE_SHARED_LIMIT}*: against it, what reading, hashing, writing and rows cost "
        "is seen.",
        *_contenders(
            data, [REENCODE_LIMIT, REENCODE_SHARED_LIMIT, "webdataset + ShardWriter", "Pillow to loose files"]
        ),
    ]


def _load(data: dict[str, Any]) -> list[str]:
    settings = data["settings"]
    differences = data["agreement"]["differences"]
    worst = max(differences, key=lambda name: differences[name]["image_means_differ_by"])
    return [
        f"{settings['images']:,} photos ({settings['num_distinct_photos']} different) with a side of at least "
        f"{settings['min_side']} pixels in batches of {settings['batch_size']}, {settings['rounds']} rounds.",
        *_contenders(data, [DECODE_LIMIT, WEBDATASET_PIL, LIMLA_DALI, DALI_AS_DOCUMENTED]),
        *_two_dalis(data),
        f"Pixels: of all contenders, {worst} differs most from {data['agreement']['reference']}: an image's mean by "
        f"at most {differences[worst]['image_means_differ_by']:.5f} of 1.",
    ]


def _two_dalis(data: dict[str, Any]) -> list[str]:
    if not any(row["contender"] == DALI_AS_DOCUMENTED for row in data["contenders"]):
        return []
    return [
        f"*{LIMLA_DALI}* is limla's own loader on DALI: it decodes as limla's other loaders do and resizes only what "
        f"the crop needs. *{DALI_AS_DOCUMENTED}* is the pipeline of DALI's own examples."
    ]


def _evaluate(data: dict[str, Any]) -> list[str]:
    parts = data["agreement"]["parts"]
    preparing = [
        row["facts"]["seconds_preparing"] for row in data["passes"] if row["contender"] == LIMLA_ATTACKS
    ]
    equal = [
        f"{part} {100 * found['fraction_of_values_equal_within_1e-5']:.2f}% of the values equal within 1e-5, "
        f"{100 * found['fraction_of_predictions_equal']:.0f}% of the predictions"
        for part, found in parts.items()
    ]
    return [
        f"Batches of {data['settings']['batch_size']} photos, {data['settings']['rounds']} rounds.",
        *_contenders(data, [TORCHATTACKS]),
        f"Both attack alike: {'; '.join(equal)}.",
        f"Making limla's copy of the model, once for a checkpoint and before the clock, took "
        f"{statistics.median(preparing):.1f} s (median); torchattacks needs nothing of the kind.",
    ]


def _end_to_end(data: dict[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    for name in dict.fromkeys(row["contender"] for row in data["passes"]):
        passes = [row for row in data["passes"] if row["contender"] == name]
        median = sorted(passes, key=lambda row: row["seconds"])[len(passes) // 2]
        waiting, model = median["facts"]["waiting"], median["facts"]["model"]
        rest = median["seconds"] - waiting - model
        rows.append(
            [
                name,
                f"{median['seconds']:.1f}",
                f"{rest:.1f}",
                f"{waiting:.2f}",
                f"{model:.1f}",
                f"{100 * waiting / (waiting + model):.1f}%",
            ]
        )
    settings = data["settings"]
    return [
        f"MobileNetV2 at 224 on {settings['evaluated']} photos, batches of {settings['batch_size']}; the pass of "
        "median length. *Start and rows* is Python's start, imports, the checks before any work, preparing the model, "
        "and writing rows and pictures; *waiting* is the time the loop waits for the loader.",
        table(["", "seconds", "start and rows", "waiting", "attacks and model", "waiting of both"], rows),
    ]


def _growth(data: dict[str, Any]) -> list[str]:
    def three(values: Sequence[float | None], digits: int) -> str:
        return " / ".join("–" if value is None else f"{value:,.{digits}f}" for value in values)

    rows = [
        [
            row["stage"],
            three(row["num_images"], 0),
            three(row["seconds"], 1),
            f"{row['time_growth']:.2f}",
            three(row["peak_memory_mb"], 0),
            "–" if row["peak_memory_ratio"] is None else f"{row['peak_memory_ratio']:.2f}",
            three(row["private_mb"], 0),
            "–" if row["private_bytes_per_image"] is None else f"{row['private_bytes_per_image']:.0f}",
        ]
        for row in data["growth"]
    ]
    head = ["", "images", "seconds", "time growth", "peak MB", "ratio", "private MB", "private bytes per image"]
    return [
        "Generated JPEGs of 64 × 64 pixels; each stage on a twentieth, half and all of them. *Time growth* is the "
        "processor time per image of the second half over that from a twentieth to the half: 1 is linear. *Ratio* is "
        "of the peak memories, all images to a twentieth; *private bytes per image* is what a stage keeps for each "
        "image more, and what its allocators do not give back. Kept by design are, for each image: in packing its "
        "path and 37 bytes, in evaluation its key and 21 bytes for each attack, in training its key and 44 bytes.",
        table(head, rows),
    ]


def _gpu(data: dict[str, Any] | None) -> list[str]:
    """Every list of rows in gpu.json as a table of its own."""
    if data is None:
        return [
            "Still to be measured: `python benchmarks/gpu.py` writes these rows on a machine with an NVIDIA GPU."
        ]
    parts = [f"```\n{data['command']}\n```", f"{machine_line(data)}."]
    for name, rows in data.items():
        if isinstance(rows, list) and rows:
            head = list(dict.fromkeys(column for row in rows for column in row))
            body = [[_cell(row.get(column, "")) for column in head] for row in rows]
            parts += [f"### {name}", table([column.replace("_", " ") for column in head], body)]
    return parts


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


_SECTIONS = {
    "reencode": _reencode,
    "load": _load,
    "evaluate": _evaluate,
    "end-to-end": _end_to_end,
    "growth": _growth,
}


def _draw(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """Horizontal bars of images/s: re-encoding, loading, attacks."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    style: Any = {"svg.hashsalt": "limla", "svg.fonttype": "none", "font.size": 10}
    panels = [
        ("re-encode at 7 qualities", measured["reencode"]["contenders"]),
        ("load to 224 × 224", measured["load"]["contenders"]),
        ("PGD-10, MobileNetV2", [row for row in measured["evaluate"]["contenders"] if row["part"] == "pgd"]),
    ]
    heights = [len(rows) for _, rows in panels]
    with matplotlib.rc_context(style):
        figure, all_axes = plt.subplots(
            len(panels), figsize=(7.2, 1.6 + 0.34 * sum(heights)), height_ratios=heights, layout="constrained"
        )
        for axes, (title, rows) in zip(all_axes, panels, strict=True):
            names = [row["contender"] for row in rows]
            values = [row["images_per_s"] for row in rows]
            axes.barh(names, values, color=[_colour(name) for name in names])
            for row in rows:
                value = row["images_per_s"]
                text = f"{value:,.0f}" if value >= 20 else f"{value:.1f}"
                place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(text, (row["images_per_s_high"], row["contender"]), **place)
            axes.errorbar(
                values,
                names,
                xerr=[
                    [row["images_per_s"] - row["images_per_s_low"] for row in rows],
                    [row["images_per_s_high"] - row["images_per_s"] for row in rows],
                ],
                fmt="none",
                ecolor="#333333",
                elinewidth=0.8,
            )
            axes.invert_yaxis()
            axes.set_title(f"{title}, images/s", loc="left", fontsize=10)
            axes.set_xlim(0, 1.15 * max(row["images_per_s_high"] for row in rows))
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _colour(name: str) -> str:
    if "limit" in name:
        return "#bbbbbb"
    return "#0072b2" if name.startswith("limla") else "#e69f00"
