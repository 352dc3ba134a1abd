#!/usr/bin/env python3
"""Pack the photos, train the learned codec on their train split, run a study of all codecs, and write what it found.

    python benchmarks/codec_study.py benchmarks/codec_study.toml

Every step goes on where it was interrupted. `benchmarks/pages.py` makes a section of docs/results.md from the JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from robustness import model_seconds

from limla.analysis.encodings import DataFolder, read_data_folders
from limla.analysis.limits import sentence
from limla.analysis.pairs import Evidence, collect
from limla.analysis.rate_curves import CurveDifference
from limla.benchmarking.machine import describe_machine
from limla.files import write_json
from limla.manifest import read_manifest, variant_name
from limla.reporting.analysed import Analysed, analyse
from limla.reporting.findings import topics
from limla.results import PREDICTIONS, read_predictions
from limla.running import study_status
from limla.study import Study, read_study
from limla.study.reading import read_settings

_EPOCHS = 32
"""Of the learned codec."""


def commands(study_file: Path) -> list[list[str]]:
    """What is run, one after the other: arguments of limla. The study itself cannot be read without the weights."""
    entries, _ = read_settings(study_file)
    (dataset,) = entries["datasets"]
    fractions = [f"--{name}={entries['split'][name]}" for name in ("train", "val", "test")]
    data_dir = str(dataset["data_dir"])
    trainings = [
        ["codec", "train", data_dir, "--output", codec["weights"], "--epochs", str(_EPOCHS)]
        for codec in entries["codecs"]
        if "weights" in codec
    ]
    return [["pack", str(dataset["raw"]), data_dir, *fractions], *trainings, ["study", "run", str(study_file)]]


def _curves(found: Analysed, evidence: Evidence, data: DataFolder) -> list[dict[str, Any]]:
    """One row per codec and quality: rate, distortion, accuracy with its interval."""
    rows: list[dict[str, Any]] = []
    for curve in found.curves:
        for point in curve.points:
            summary = data.summary((curve.codec, point.quality), evidence.split)
            rows.append(
                {
                    "codec": curve.codec,
                    "attack": curve.attack.label,
                    **dataclasses.asdict(point),
                    "psnr_db": summary and summary.mean_psnr_db,
                    "ssim": summary and summary.mean_ssim,
                    "num_measured": summary and summary.num_measured,
                }
            )
    return rows


def _difference(row: CurveDifference) -> dict[str, Any]:
    values = {
        item.name: getattr(row, item.name)
        for item in dataclasses.fields(row)
        if item.name not in ("before", "after", "differing")
    }
    return {"before": row.before.codec, "after": row.after.codec, "attack": row.before.attack.label, **values}


def _found(study: Study) -> dict[str, Any]:
    data = read_data_folders([study.data_dir(dataset) for dataset in study.datasets])
    (evidence,) = collect(read_predictions(study.results_dir), data)
    found = analyse(evidence, study.margin / 100)
    (folder,) = data.values()
    bare = next(iter(found.defences), None)
    return {
        "curves": _curves(found, evidence, folder),
        "differences": [_difference(row) for row in found.differences if row.differing == "codec"],
        "comparisons": [
            {
                "change": row.change,
                "before": row.value_before,
                "after": row.value_after,
                "p_holm": row.p_holm,
                **{name: getattr(row.result, name) for name in ("difference", "low", "high", "detectable")},
            }
            for row in found.of_kind("quality")
        ],
        "limits": [sentence(row) for row in found.limits],
        "defences": [dataclasses.asdict(row) for row in found.defences],
        "undefended": bare and dataclasses.asdict(bare),
        "findings": {topic.title: [item.text for item in topic.findings] for topic in topics(found)},
    }


def _codecs(study: Study) -> list[dict[str, Any]]:
    """Settings and versions of every codec, as its first folder of shards records them."""
    folder = study.data_dir(study.datasets[0])
    found: list[dict[str, Any]] = []
    for plan in study.codecs:
        manifest = read_manifest(folder / variant_name(*plan.variants[0]))
        settings = {
            name: value
            for name, value in manifest.settings.items()
            if name not in ("source", "measure", "seed", "quality", "codec")
        }
        found.append({"codec": plan.name, "version": manifest.versions["codec"], "settings": settings})
    return found


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--collect", "only_collect", is_flag=True, help="Run nothing: read the finished study again.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/codec-study.json"))
def main(study_file: Path, only_collect: bool, output: Path) -> None:
    """Run STUDY_FILE to its end and write OUTPUT."""
    for command in () if only_collect else commands(study_file):
        subprocess.run([sys.executable, "-m", "limla", *command], check=True)
    study = read_study(study_file)
    if study_status(study).cells.num_left:
        raise click.UsageError("the study did not end: see above, and run this again")
    manifest = read_manifest(study.data_dir(study.datasets[0]) / "source")
    weights = [plan.weights for plan in study.codecs if plan.weights is not None]
    write_json(
        output,
        {
            "command": f"python benchmarks/codec_study.py {study_file}",
            "machine": describe_machine(),
            "study_file": study_file.read_text(encoding="utf-8"),
            "models": list(study.models),
            "seeds": list(study.seeds),
            "image_size": study.image_size,
            "margin_points": study.margin,
            "num_samples": {split: manifest.num_samples(split) for split in manifest.splits()},
            "num_cells": sum(1 for _ in (study.results_dir / PREDICTIONS).glob("*.parquet")),
            "seconds_training": model_seconds(study),
            "codecs": _codecs(study),
            "learned": [
                json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8")) for path in weights
            ],
            **_found(study),
        },
    )
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
