#!/usr/bin/env python3
"""How often do the report's 95% intervals hold the truth? A simulation with a known truth; no photos needed.

    python benchmarks/intervals.py

writes benchmarks/results/intervals.json, and from it the table between the two marks in docs/report.md. A test set is
drawn again and again: the class of each image evenly from the classes, its prediction right with a given share, else
evenly one of the other classes. By that symmetry accuracy and all three macro scores have the given share as their
truth, so one draw judges Wilson's interval of the accuracy and the bootstrap of the macro scores side by side. Where
the report gives no interval, because too few images are right or wrong, none is judged.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from tables import table

from limla.benchmarking.machine import describe_machine
from limla.files import write_bytes, write_json
from limla.statistics import ScoreIntervals, macro_score_intervals, proportion_interval

ROOT = Path(__file__).parents[1]
MARK = "<!-- made by benchmarks/intervals.py -->"
NUM_IMAGES = (30, 60, 300)
SHARES_RIGHT = (0.1, 0.5, 0.9, 0.98)
METRICS = ("accuracy", *ScoreIntervals._fields)
_TITLES = {
    "accuracy": "accuracy (Wilson)",
    "precision_macro": "precision, macro",
    "recall_macro": "recall, macro",
    "f1_macro": "F1, macro",
}


def draw_confusion(
    generator: np.random.Generator, num_images: int, num_classes: int, share_right: float
) -> npt.NDArray[np.int64]:
    """One test set's (C, C) confusion matrix, rows by the actual class."""
    cells = np.full((num_classes, num_classes), (1 - share_right) / (num_classes - 1) / num_classes)
    np.fill_diagonal(cells, share_right / num_classes)
    return generator.multinomial(num_images, cells.ravel()).reshape(cells.shape)


def simulate(num_images: int, num_classes: int, share_right: float, num_trials: int) -> list[dict[str, Any]]:
    """Per metric: the share of trials with an interval, and among these: its coverage of `share_right`, its width.

    Coverage and width are None where no trial had one.
    """
    generator = np.random.default_rng([num_images, num_classes, round(1000 * share_right)])
    ends = np.empty((num_trials, len(METRICS), 2))
    for trial in range(num_trials):
        confusion = draw_confusion(generator, num_images, num_classes, share_right)
        ends[trial, 0] = proportion_interval(int(np.trace(confusion)), num_images)
        ends[trial, 1:] = macro_score_intervals(confusion, seed=trial)
    low, high = ends[..., 0], ends[..., 1]
    holds, is_shown = (low <= share_right) & (share_right <= high), np.isfinite(low)
    return [
        {
            "num_images": num_images,
            "share_right": share_right,
            "metric": metric,
            "shown": float(shown.mean()),
            "coverage": float(holds[shown, number].mean()) if shown.any() else None,
            "mean_width": round(float((high - low)[shown, number].mean()), 5) if shown.any() else None,
        }
        for number, metric in enumerate(METRICS)
        for shown in [is_shown[:, number]]
    ]


def markdown(data: dict[str, Any]) -> str:
    """The table for docs/report.md, with what it is: coverage in percent, one line per setting."""
    found = {(row["num_images"], row["share_right"], row["metric"]): row for row in data["rows"]}
    settings = dict.fromkeys((num_images, share) for num_images, share, _ in found)
    versions = data["machine"]["versions"]
    caption = (
        f"How often of {data['num_trials']:,} simulated test sets of {data['num_classes']} classes the 95% interval "
        f"held the truth, in %\n(`{data['command']}`; numpy {versions['numpy']}, scipy {versions['scipy']});\n"
        "for the macro scores, of those that have one, whose share is in the column before:"
    )
    return f"{caption}\n\n" + table(
        ["images", "of them right", _TITLES["accuracy"], "macro: has one", *list(_TITLES.values())[1:]],
        [
            [
                str(num_images),
                f"{100 * share:g}%",
                _percent(found[num_images, share, "accuracy"]["coverage"]),
                _percent(found[num_images, share, "recall_macro"]["shown"]),
                *(_percent(found[num_images, share, metric]["coverage"]) for metric in METRICS[1:]),
            ]
            for num_images, share in settings
        ],
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def write_table(data: dict[str, Any], page: Path) -> None:
    """Put the table between the two marks of `page`."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    write_bytes(page, f"{before}{MARK}\n\n{markdown(data)}\n\n{MARK}{after}".encode())


@click.command()
@click.option(
    "--trials", type=click.IntRange(1), default=10_000, show_default=True, help="Test sets per setting."
)
@click.option("--classes", type=click.IntRange(2), default=5, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/intervals.json")
@click.option("--page", type=click.Path(path_type=Path, exists=True), default=ROOT / "docs/report.md")
def main(trials: int, classes: int, output: Path, page: Path) -> None:
    """Simulate, and write the JSON and the table."""
    rows: list[dict[str, Any]] = []
    for num_images in NUM_IMAGES:
        for share in SHARES_RIGHT:
            click.echo(f"{num_images} images, {share:g} right", err=True)
            rows += simulate(num_images, classes, share, trials)
    machine = describe_machine()
    machine["versions"]["scipy"] = importlib.metadata.version("scipy")
    data = {
        "command": f"python benchmarks/intervals.py --trials {trials} --classes {classes}",
        "machine": machine,
        "num_classes": classes,
        "num_trials": trials,
        "rows": rows,
    }
    write_json(output, data)
    write_table(json.loads(output.read_text(encoding="utf-8")), page)
    click.echo(f"written: {output}, and the table in {page}")


if __name__ == "__main__":
    main()
