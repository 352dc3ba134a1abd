#!/usr/bin/env python3
"""Make docs/results.md, docs/benchmarks.md and their figures from the JSON files in benchmarks/results.

No number is typed by hand.

python benchmarks/pages.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click
import codec_study_page
import probe_page
from codecs_page import figure as codecs_figure
from codecs_page import section as codecs_section
from robustness_page import section
from tables import machine_line, table
from throughput import write_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_OTHER_WORK = "Other work ran on the same two cores meanwhile, so the {} of this section are {} bounds."


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]"


def _short(variant: str) -> str:
    return variant.removeprefix("jpeg-")


def _conditions(data: dict[str, Any]) -> tuple[list[str], list[str]]:
    trains = list(dict.fromkeys(row["train"] for row in data["metrics"]))
    tests = [row["variant"] for row in data["rates"]]
    return sorted(trains, key=lambda name: (name != "source", int(name) if name.isdigit() else 0)), tests


def _matrix(data: dict[str, Any], metric: str, attack: str, eps: float) -> str:
    trains, tests = _conditions(data)
    found = {
        (row["train"], row["test"]): _percent(row)
        for row in data["metrics"]
        if (row["metric"], row["attack"]) == (metric, attack) and abs(row["eps"] - eps) < 1e-9
    }
    body = [[f"trained on {train}", *(found.get((train, test), "–") for test in tests)] for train in trains]
    return table(["", *map(_short, tests)], body)


def _study(name: str, title: str) -> list[str]:
    data = _load(name)
    study, counts = data["study"], data["num_samples"]
    rates = [
        [
            _short(row["variant"]),
            f"{row['mean_num_bytes'] / 1000:.1f}",
            f"{row['mean_rate_bpp']:.3f}",
            f"{row['mean_psnr_db']:.2f}" if row["mean_psnr_db"] else "–",
            f"{row['mean_ssim']:.3f}" if row["mean_ssim"] else "–",
            str(row["num_psnr_db"]),
        ]
        for row in data["rates"]
    ]
    parts = [
        f"## {title}",
        f"```\n{data['command']}\n```",
        f"{machine_line(data)}.",
        f"{sum(counts.values())} images ({', '.join(f'{split} {number}' for split, number in counts.items())}); "
        f"model {', '.join(study['models'])}, image size {study['image_size']}, "
        f"seed {', '.join(map(str, study['seeds']))}, "
        f"at most {study['training']['epochs']} epochs. "
        + "Wall time in seconds: "
        + ", ".join(f"{stage} {value:.0f}" for stage, value in data["seconds"].items())
        + ".",
        "### Images/s of each stage",
        _stages(data),
        "### Rate and distortion",
        table(["", "kB per image", "bits per pixel", "PSNR dB", "SSIM", "images measured"], rates),
        "### Accuracy in %, 95% Wilson interval; columns: tested on",
        _matrix(data, "accuracy", "none", 0.0),
    ]
    for attack in study["evaluation"]["attacks"]:
        for eps in study["evaluation"]["eps"]:
            title = f"### Robust accuracy in %: {attack.upper()}, eps {round(255 * eps, 2):g}/255"
            parts += [title, _matrix(data, "robust_accuracy", attack, eps)]
    return parts


def _stages(data: dict[str, Any]) -> str:
    num_images = sum(data["num_samples"].values())
    study, seconds = data["study"], data["seconds"]
    speeds = data["training_speeds"]
    epochs = [row["epochs"] for row in speeds]
    measured = "all images" if study["measure"] == "all" else f"{study['measure']} images"
    rows = [
        ["pack", f"{num_images / seconds['pack']:.0f}", ""],
        [
            "re-encode",
            f"{num_images / seconds['reencode']:.0f}",
            f"each at {len(study['qualities'])} qualities; PSNR and SSIM of {measured}",
        ],
        [
            "train",
            f"{statistics.median(row['images_per_s'] for row in speeds):.0f}",
            f"median over {len(speeds)} runs, the longest of {max(epochs)} epochs",
        ],
    ]
    by_attack: dict[str, list[float]] = {}
    for row in data["timings"]:
        by_attack.setdefault(row["attack"], []).append(row["images_per_s"])
    rows += [
        [f"evaluate, {attack}", f"{statistics.median(values):.0f}", f"median over {len(values)} cells"]
        for attack, values in by_attack.items()
    ]
    return table(["", "images/s", ""], rows)


def _demo_figure(path: Path) -> None:
    """Accuracy of the source-trained model per frequency band against quality."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    data = _load("demo")
    matplotlib.rcParams.update({"svg.hashsalt": "limla", "svg.fonttype": "none", "font.size": 11})
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    rows = [row for row in data["class_recalls"] if row["train"] == "source" and row["test"] != "source"]
    rows.sort(key=lambda row: int(row["test"].removeprefix("jpeg-q")))
    qualities = [int(row["test"].removeprefix("jpeg-q")) for row in rows]
    bands = list(dict.fromkeys(name.split("-")[0] for name in ("coarse", "medium", "fine", "finest")))
    for band, colour, marker in zip(bands, ("#0072b2", "#009e73", "#e69f00", "#d55e00"), "os^D", strict=True):
        means = [
            100 * sum(value for name, value in row["recall"].items() if name.split("-")[0] == band) / 2
            for row in rows
        ]
        axes.plot(qualities, means, marker=marker, color=colour, label=band)
    axes.axhline(100 / len(rows[0]["recall"]), color="#999999", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(qualities, [str(quality) for quality in qualities])
    axes.minorticks_off()
    axes.set_xlabel("JPEG quality of the test images")
    axes.set_ylabel("recall in %")
    axes.set_ylim(-3, 103)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="class signal in", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, metadata={"Date": None})


@click.command()
def main() -> None:
    """Write docs/results.md, docs/benchmarks.md and their figures."""
    has_codecs = (RESULTS / "codecs_rd.json").exists()  # made on an idle machine alone
    has_study = (RESULTS / "codec-study.json").exists()
    parts = [
        "# Measured results",
        "Made by `python benchmarks/pages.py` from `benchmarks/results/*.json`; "
        "every JSON names the command that made it. How fast each stage is beside its peers: "
        "[benchmarks.md](benchmarks.md).",
        *section(_load("robustness")),
        *(codec_study_page.section(_load("codec-study")) if has_study else ()),
        *(codecs_section(_load("codecs_rd")) if has_codecs else ()),
        *([_OTHER_WORK.format("speeds", "lower")] if has_codecs else ()),
        *probe_page.section(_load("probe") if (RESULTS / "probe.json").is_file() else None),
        *_study("flowers", "Flower photos: 5 classes × 120, MobileNetV2 from scratch"),
        _OTHER_WORK.format("times", "upper"),
        *_study("demo", "The calibration dataset (`make demo`)"),
    ]
    (ROOT / "docs" / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if has_codecs:
        (ROOT / "docs" / "codecs.svg").write_bytes(codecs_figure(_load("codecs_rd")))
    if has_study:
        (ROOT / "docs" / "codec-study.svg").write_bytes(codec_study_page.figure(_load("codec-study")))
    _demo_figure(ROOT / "docs" / "demo.svg")
    write_page(RESULTS, ROOT / "docs")
    click.echo("written: docs/results.md, docs/benchmarks.md and their figures")


if __name__ == "__main__":
    main()
