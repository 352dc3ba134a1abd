"""The CSV files beside the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limla.files import write_bytes
from limla.reporting.aggregates import ClassRow, metric_table
from limla.reporting.sections import Section
from limla.results import MetricRow


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV file (RFC 4180, UTF-8), whole or not at all; None and NaN are empty fields."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_field(value) for value in row])
    write_bytes(path, buffer.getvalue().encode("utf-8"))
    return path


def _field(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def write_metrics(path: Path, rows: Sequence[MetricRow]) -> Path:
    """metrics.csv: one line per condition and metric, every condition field in its own column."""
    table = metric_table(rows)
    return write_csv(path, table.column_names, (tuple(row.values()) for row in table.to_pylist()))


def write_matrix(path: Path, sections: Sequence[Section]) -> Path:
    """matrix.csv: the points of figures and heat maps (means over seeds), with the rate of the test variant."""
    header = (
        "dataset",
        "split",
        "model",
        "train_codec",
        "train_quality",
        "subject",
        "test_codec",
        "test_quality",
        "mean_rate_bpp",
        "attack",
        "eps",
        "attack_settings",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "num_samples",
        "num_seeds",
    )
    return write_csv(path, header, (row for section in sections for row in _matrix_rows(section)))


def _matrix_rows(section: Section) -> Iterable[Sequence[Any]]:
    for subject in section.subjects:
        for attack in section.attacks:
            for metric in ("accuracy",) if attack.is_none else ("robust_accuracy", "attack_success_rate"):
                for variant in section.variants:
                    point = section.point(subject, variant, attack, metric)
                    if point is None:
                        continue
                    yield (
                        section.dataset,
                        section.split,
                        subject.model,
                        subject.train_codec,
                        subject.train_quality,
                        subject.label,
                        *variant,
                        section.rate_bpp(variant),
                        attack.attack,
                        attack.eps,
                        attack.attack_settings,
                        metric,
                        point.value,
                        point.low,
                        point.high,
                        point.num_samples,
                        point.num_runs,
                    )


def write_classes(path: Path, rows: Sequence[ClassRow], sections: Sequence[Section]) -> Path:
    """classes.csv: recall of each class under each condition, and its drop against the best test quality."""
    names = {(section.dataset, section.split): section for section in sections}
    fields = ("dataset", "split", "model", "checkpoint_id", "seed", "train_codec", "train_quality")
    tested = ("test_codec", "test_quality", "attack", "eps", "attack_settings", "decoder")
    header = (*fields, *tested, "class", "label", "recall", "ci_low", "ci_high", "num_samples", "drop")
    lines: list[Sequence[Any]] = []
    for row in rows:
        cell = row.condition
        section = names[cell.dataset, cell.split]
        lines.append(
            (
                *(getattr(cell, name) for name in (*fields, *tested)),
                section.class_name(row.label),
                row.label,
                row.recall,
                row.ci_low,
                row.ci_high,
                row.num_samples,
                row.drop,
            )
        )
    return write_csv(path, header, lines)


def write_encodings(path: Path, sections: Sequence[Section]) -> Path:
    """encoding.csv: rate, PSNR and SSIM of each variant over each evaluated split."""
    lines: list[Sequence[Any]] = []
    header: Sequence[str] = ()
    for section in sections:
        for variant in section.encoded_variants():
            summary = section.data.summary(variant, section.split) if section.data else None
            assert summary is not None
            values = asdict(summary)
            header = ("dataset", "split", "codec", "quality", *values)
            lines.append((section.dataset, section.split, *variant, *values.values()))
    return write_csv(path, header, lines)
