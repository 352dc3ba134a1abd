#!/usr/bin/env python3
"""How long, how large and how heavy the report of many rows is: synthetic predictions, the real command.

    python benchmarks/report_scale.py                  # 100 conditions × 50,000 rows
    python benchmarks/report_scale.py --rows 2000      # a quick look

Two training conditions × ten test variants × five attacks; how hard an image is is drawn once, so conditions
are paired as real ones are. With `--page docs/report.md` what was found is put between the marks there.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from tables import machine_line

from limla.benchmarking.machine import describe_machine
from limla.benchmarking.memory import MemorySampler
from limla.files import write_bytes, write_json
from limla.manifest import SOURCE, Manifest, read_manifest, variant_name
from limla.results import (
    ENCODING_SCHEMA,
    Condition,
    PredictionColumns,
    PredictionRow,
    write_predictions,
    write_table,
)
from limla.shards import ShardEntry

MARK = "<!-- made by benchmarks/report_scale.py -->"
_QUALITIES = (None, 1, 5, 10, 20, 30, 50, 75, 90, 95)
_ATTACKS = (("none", 0.0, "{}"), *((name, eps / 255, "{}") for name in ("fgsm", "mifgsm") for eps in (1, 4)))
_TRAININGS = ("standard", "random jpeg quality 10-90:10")


def _write_data(folder: Path, keys: list[str], num_classes: int, generator: np.random.Generator) -> None:
    """Manifests and encodings of every variant; no shards."""
    rows = len(keys)
    for quality in _QUALITIES:
        codec = SOURCE if quality is None else "jpeg"
        shard = ShardEntry("test-000000.tar", "test", rows, 1, f"{quality or 0:064x}")
        manifest = Manifest(
            dataset=folder.name,
            codec=codec,
            quality=quality,
            class_names=tuple(f"class{number}" for number in range(num_classes)),
            shards=(shard,),
            settings={},
            versions={},
        )
        num_bytes = generator.integers(2_000, 4_000, rows) * (1 + (quality or 100))
        columns = {
            "key": keys,
            "split": ["test"] * rows,
            "codec": [codec] * rows,
            "quality": [quality] * rows,
            "height": [375] * rows,
            "width": [500] * rows,
            "num_bytes": num_bytes,
            "rate_bpp": num_bytes * 8 / (375 * 500),
            "psnr_db": pa.array([None if quality is None else 25 + quality / 10] * rows, pa.float64()),
            "ssim": pa.array([None if quality is None else 0.9] * rows, pa.float64()),
        }
        target = folder / variant_name(codec, quality)
        target.mkdir(parents=True)
        write_table(target / "encoding.parquet", pa.table(columns, schema=ENCODING_SCHEMA))
        manifest.write(target)


def _condition(
    dataset: str, data_id: str, training: str, quality: int | None, attack: tuple[str, float, str]
) -> Condition:
    name, eps, settings = attack
    codec = SOURCE if quality is None else "jpeg"
    return Condition(
        dataset=dataset,
        data_id=data_id,
        split="test",
        task="classification",
        model="mobilenet_v2",
        checkpoint_id=f"{_TRAININGS.index(training):016x}",
        seed=0,
        train_codec=SOURCE,
        train_quality=SOURCE,
        train_method=training,
        test_codec=codec,
        test_quality=quality,
        simulation="",
        preprocessing="shorter256-crop224",
        attack=name,
        norm="linf" if eps else "",
        eps=eps,
        attack_settings=settings,
        threat="",
        defence_codec="",
        defence_quality="",
        decoder="cpu",
        precision="float32",
        batch_size=32,
    )


def _write_rows(
    results: Path, data: Path, keys: list[str], num_classes: int, generator: np.random.Generator
) -> int:
    """One file per condition; returns their number."""
    rows = len(keys)
    labels = generator.integers(num_classes, size=rows)
    hardness = generator.random(rows)
    number = 0
    for training in _TRAININGS:
        for quality in _QUALITIES:
            manifest = read_manifest(data / variant_name(SOURCE if quality is None else "jpeg", quality))
            for attack in _ATTACKS:
                condition = _condition(data.name, manifest.data_id("test"), training, quality, attack)
                share = (0.85 - 0.3 / (1 + (quality or 100) / 10)) * np.exp(-120 * attack[1])
                noise = generator.normal(0, 0.05, rows)
                correct = hardness + noise < share
                wrong = (labels + 1 + generator.integers(num_classes - 1, size=rows)) % num_classes
                predictions = np.where(correct, labels, wrong)
                values = zip(keys, labels.tolist(), predictions.tolist(), correct.tolist(), strict=True)
                write_predictions(
                    results,
                    condition,
                    PredictionColumns(PredictionRow(*value, loss=0.5, confidence=0.8) for value in values),
                )
                number += 1
    return number


def _report(results: Path, data: Path, output: Path) -> dict[str, float]:
    """Run `limla report` and watch it: wall seconds, and the peak of its private memory in MB."""
    command = [
        sys.executable,
        "-m",
        "limla",
        "report",
        str(results),
        "--data-dir",
        str(data),
        "--output",
        str(output),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command)
    with MemorySampler(process.pid) as memory:
        if process.wait():
            raise click.ClickException(f"limla report ended with {process.returncode}")
    peak_mb = round(memory.peak.private_mb, 1) if memory.peak else math.nan
    return {"seconds": round(time.monotonic() - started, 1), "peak_private_mb": peak_mb}


def sentence(data: dict[str, Any]) -> str:
    """What docs/report.md says of it."""
    return (
        f"{data['num_conditions']} conditions × {data['num_rows']:,} rows of {data['num_classes']} classes "
        f"(`{data['command']}`, synthetic rows, on {machine_line(data)}): {data['seconds']:.0f} s, "
        f"{data['peak_private_mb'] / 1000:.2f} GB at the peak, a page of {data['page_bytes'] / 1e6:.1f} MB."
    )


def write_sentence(data: dict[str, Any], page: Path) -> None:
    """Put the sentence between the two marks of `page`."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    write_bytes(page, f"{before}{MARK}\n\n{sentence(data)}\n\n{MARK}{after}".encode())


@click.command()
@click.option("--rows", default=50_000, show_default=True, help="Images of the test split.")
@click.option("--classes", default=100, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/report-scale.json"))
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to keep the report in.")
@click.option("--page", type=click.Path(path_type=Path), help="Page between whose marks the result goes.")
def main(rows: int, classes: int, output: Path, keep: Path | None, page: Path | None) -> None:
    """Measure the report and write OUTPUT."""
    generator = np.random.default_rng(0)
    keys = [f"test/class{number % classes}/image{number:06d}" for number in range(rows)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, results = folder / "synthetic", folder / "results"
        _write_data(data, keys, classes, generator)
        num_conditions = _write_rows(results, data, keys, classes, generator)
        found = _report(results, data, folder / "report" / "report.html")
        page_bytes = (folder / "report" / "report.html").stat().st_size
        if keep:
            shutil.copytree(folder / "report", keep, dirs_exist_ok=True)
    record = {
        "command": f"python benchmarks/report_scale.py --rows {rows} --classes {classes}",
        "machine": describe_machine(),
        "num_conditions": num_conditions,
        "num_rows": rows,
        "num_classes": classes,
        "page_bytes": page_bytes,
        **found,
    }
    write_json(output, record)
    if page:
        write_sentence(record, page)
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
