#!/usr/bin/env python3
"""Run a study, killing it once on the way, and write what it found, with the machine and versions, as one JSON file.

    python benchmarks/robustness.py benchmarks/robustness.toml --kill-at-cells 200

The command that is run, killed with SIGKILL, and run again is `limla study run FILE`. `benchmarks/pages.py` makes a
section of docs/results.md from the JSON.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from limla.analysis.comparisons import Comparison
from limla.analysis.encodings import read_data_folders
from limla.analysis.limits import sentence
from limla.analysis.pairs import collect
from limla.benchmarking.machine import describe_machine
from limla.files import write_json
from limla.manifest import read_manifest
from limla.reporting.analysed import analyse
from limla.reporting.findings import topics
from limla.results import PREDICTIONS, read_predictions
from limla.running import study_status
from limla.study import Study, read_study

_SECONDS_BETWEEN_LOOKS = 1.0


def _run(study_file: Path, study: Study, kill_at_cells: int) -> None:
    """Run `limla study run` until it ends by itself; kill it once at a number of cells. One line per start."""
    killed, end = False, "killed"
    while end == "killed":
        before, started = _num_cells(study), time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "limla", "study", "run", str(study_file)])
        while process.poll() is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            if not killed and _num_cells(study) >= kill_at_cells > before:
                process.send_signal(signal.SIGKILL)
                killed = True
        end = {0: "finished", -signal.SIGKILL: "killed"}.get(
            process.returncode, f"exit code {process.returncode}"
        )
        seconds = round(time.monotonic() - started, 1)
        line = {"cells_before": before, "cells_after": _num_cells(study), "seconds": seconds, "end": end}
        with _starts_file(study).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _starts_file(study: Study) -> Path:
    """Beside the rows: what was seen survives this script."""
    return study.output_dir / "starts.jsonl"


def _num_cells(study: Study) -> int:
    return sum(1 for _ in (study.results_dir / PREDICTIONS).glob("*.parquet"))


def _comparison(row: Comparison) -> dict[str, Any]:
    result = dataclasses.asdict(row.result)
    return {
        "kind": row.kind,
        "where": row.where,
        "change": row.change,
        "before": row.value_before,
        "after": row.value_after,
        "p_holm": row.p_holm,
        "family_size": row.family_size,
        **{name: result[name] for name in ("difference", "low", "high", "p_value", "flip_rate", "detectable")},
    }


def _found(study: Study) -> dict[str, Any]:
    data = read_data_folders([study.data_dir(dataset) for dataset in study.datasets])
    (evidence,) = collect(read_predictions(study.results_dir), data)
    found = analyse(evidence, study.margin / 100)
    variants = sorted({slot.variant for slot in evidence.runs}, key=str)
    return {
        "rates_bpp": {f"{codec}:{quality}": evidence.rate_bpp((codec, quality)) for codec, quality in variants},
        "limits": [sentence(row) for row in found.limits],
        "defences": [dataclasses.asdict(row) for row in found.defences],
        "comparisons": [_comparison(row) for row in found.of_kind("quality", "training", "attack")],
        "checks": [
            {name: getattr(check, name) for name in ("name", "subject", "defence", "verdict", "sentence")}
            for check in found.checks
        ],
        "findings": {topic.title: [item.text for item in topic.findings] for topic in topics(found)},
    }


def model_seconds(study: Study) -> float:
    """How long the models of a study trained, as their epochs say."""
    total = 0.0
    for path in (study.output_dir / "models").glob("*/history.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            total += sum(float(row["seconds"]) for row in csv.DictReader(file))
    return round(total, 1)


def _cell_seconds(study: Study) -> float:
    lines = (study.results_dir / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    return round(sum(json.loads(line)["seconds_computing"] for line in lines), 1)


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--kill-at-cells", type=int, default=200, show_default=True, help="Kill it once at so many cells."
)
@click.option("--collect", is_flag=True, help="Run nothing: read the finished study again.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/robustness.json"))
def main(study_file: Path, kill_at_cells: int, collect: bool, output: Path) -> None:
    """Run STUDY_FILE to its end and write OUTPUT."""
    study = read_study(study_file)
    if not collect:
        _run(study_file, study, kill_at_cells)
    if study_status(study).cells.num_left:
        raise click.UsageError("the study did not end: see above, and run this again")
    manifest = read_manifest(study.data_dir(study.datasets[0]) / "source")
    write_json(
        output,
        {
            "command": f"python benchmarks/robustness.py {study_file} --kill-at-cells {kill_at_cells}",
            "machine": describe_machine(),
            "study_file": study_file.read_text(encoding="utf-8"),
            "models": list(study.models),
            "seeds": list(study.seeds),
            "image_size": study.image_size,
            "margin_points": study.margin,
            "num_samples": {split: manifest.num_samples(split) for split in manifest.splits()},
            "num_cells": _num_cells(study),
            "starts": [
                json.loads(line) for line in _starts_file(study).read_text(encoding="utf-8").splitlines()
            ],
            "seconds_training": model_seconds(study),
            "seconds_attacks_and_models": _cell_seconds(study),
            **_found(study),
        },
    )
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
