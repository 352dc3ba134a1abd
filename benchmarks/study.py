#!/usr/bin/env python3
"""Run a study and write what it measured, with the machine and versions, as one JSON file.

    python benchmarks/study.py benchmarks/flowers.toml --raw path/to/flowers --output benchmarks/results/flowers.json

`benchmarks/pages.py` makes docs/results.md from such files.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np

from limla.benchmarking.machine import describe_machine
from limla.cli.console import ConsoleProgress
from limla.evaluation.settings import attack_name
from limla.files import write_json
from limla.manifest import list_variants, read_manifest, variant_name
from limla.paths import AnyPath
from limla.reporting.aggregates import metric_rows
from limla.results import read_encodings, read_predictions
from limla.running import run
from limla.study import Study, read_settings, study_from


def _data_dir(study: Study) -> AnyPath:
    return study.data_dir(study.datasets[0])


def _rates(study: Study) -> list[dict[str, Any]]:
    """Per variant: images, mean bits per pixel, PSNR and SSIM over all splits."""
    rows: list[dict[str, Any]] = []
    for name in list_variants(_data_dir(study)):
        table = read_encodings(_data_dir(study), [name])
        row: dict[str, Any] = {"variant": name, "num_images": table.num_rows}
        for column in ("num_bytes", "rate_bpp", "psnr_db", "ssim"):
            values = np.array([value for value in table[column].to_pylist() if value is not None], dtype=float)
            finite = values[np.isfinite(values)]
            row[f"mean_{column}"] = round(float(finite.mean()), 4) if len(finite) else None
            row[f"num_{column}"] = len(finite)
        rows.append(row)
    return rows


def _metrics(study: Study) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in metric_rows(read_predictions(study.output_dir / "results")):
        condition = row.condition
        rows.append(
            {
                "model": condition.model,
                "seed": condition.seed,
                "train": condition.train_quality,
                "test": variant_name(condition.test_codec, condition.test_quality),
                "attack": condition.attack,
                "eps": condition.eps,
                "metric": row.metric,
                "value": row.value,
                "ci_low": row.ci_low,
                "ci_high": row.ci_high,
                "num_samples": row.num_samples,
            }
        )
    return rows


def _class_recalls(study: Study) -> list[dict[str, Any]]:
    """Recall of each class in every clean condition."""
    class_names = read_manifest(_data_dir(study) / "source").class_names
    rows: list[dict[str, Any]] = []
    for condition, table in read_predictions(study.output_dir / "results"):
        if condition.attack != "none":
            continue
        labels = table["label"].to_numpy()
        correct = table["correct"].to_numpy(zero_copy_only=False)
        recalls = {name: float(correct[labels == index].mean()) for index, name in enumerate(class_names)}
        rows.append(
            {
                "train": condition.train_quality,
                "test": variant_name(condition.test_codec, condition.test_quality),
                "recall": recalls,
            }
        )
    return rows


def _training_speeds(study: Study) -> list[dict[str, Any]]:
    """Per trained model: epochs run and the median images/s of an epoch (training and validation together)."""
    rows: list[dict[str, Any]] = []
    for path in sorted((study.output_dir / "models").glob("*/history.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            speeds = [float(row["images_per_s"]) for row in csv.DictReader(file)]
        rows.append({"run": path.parent.name, "epochs": len(speeds), "images_per_s": statistics.median(speeds)})
    return rows


def _timings(study: Study) -> list[dict[str, Any]]:
    path = study.output_dir / "results" / "timings.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--raw", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
@click.option(
    "--collect", is_flag=True, help="Run nothing: read the finished run again; OUTPUT keeps its times."
)
def main(study_file: Path, raw: Path | None, output: Path, collect: bool) -> None:
    """Run STUDY_FILE from nothing and write OUTPUT."""
    settings, file = read_settings(study_file)
    if raw is not None:
        settings["raw"] = raw
    study = study_from(settings, file)
    if collect:
        seconds = json.loads(output.read_text(encoding="utf-8"))["seconds"]
    else:
        for folder in (_data_dir(study), study.output_dir / "models", study.output_dir / "results"):
            if folder.exists():
                raise click.UsageError(f"{folder} is there: this measures a run from nothing; remove it first")
        seconds = {
            stage: round(value, 2) for stage, value in run(study, ConsoleProgress(), file).seconds.items()
        }
    manifest = read_manifest(_data_dir(study) / "source")
    shown = dataclasses.asdict(study)
    shown["output_dir"] = study.output_dir.name
    shown["qualities"] = study.codecs[0].qualities
    shown["evaluation"]["attacks"] = [attack_name(attack) for attack in study.evaluation.attacks]
    for dataset in shown["datasets"]:
        for name in ("raw", "data_dir"):
            dataset[name] = Path(dataset[name]).name if dataset[name] else None
    write_json(
        output,
        {
            "command": f"python benchmarks/study.py {study_file}"
            + (" --raw path/to/photos" if raw else "")
            + f" --output benchmarks/results/{output.name}",
            "machine": describe_machine(),
            "study": json.loads(json.dumps(shown, default=str)),
            "summary": manifest.summary,
            "num_samples": {split: manifest.num_samples(split) for split in manifest.splits()},
            "seconds": seconds,
            "rates": _rates(study),
            "metrics": _metrics(study),
            "class_recalls": _class_recalls(study),
            "training_speeds": _training_speeds(study),
            "timings": _timings(study),
        },
    )
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
