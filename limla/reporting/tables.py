"""The tables beside the report: each as CSV and as Parquet, of equal content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from limla.analysis.breakdown import breakdown_table
from limla.analysis.calibration import calibration_table
from limla.analysis.classes import recall_table
from limla.analysis.columns import write_both
from limla.analysis.comparisons import comparison_table
from limla.analysis.defence_table import defence_table
from limla.analysis.encodings import EncodingSummary
from limla.analysis.flips import flip_table
from limla.analysis.limits import limit_table
from limla.analysis.masking import masking_table
from limla.analysis.rate_curves import curve_difference_table, curve_table
from limla.reporting import diagnostics, evidence
from limla.reporting.aggregates import ClassRow, metric_table
from limla.reporting.analysed import Analysed
from limla.reporting.sections import Section
from limla.results import CONDITION_SCHEMA, MetricRow

METRICS, MATRIX, CLASSES, ENCODING = "metrics", "matrix", "classes", "encoding"
"""Names of files beside the page, without their endings."""


def tables_of(
    rows: Sequence[MetricRow],
    of_classes: Sequence[ClassRow],
    sections: Sequence[Section],
    analysed: Sequence[Analysed],
) -> dict[str, pa.Table]:
    """Name (without ending, with the folder beside the page) → table; those without a row are left out."""
    found = {
        METRICS: metric_table(rows),
        MATRIX: _matrix(sections),
        CLASSES: _classes(of_classes, sections),
        ENCODING: _encodings(sections),
        evidence.COMPARISONS: comparison_table([row for item in analysed for row in item.comparisons]),
        evidence.LIMITS: limit_table([row for item in analysed for row in item.limits]),
        evidence.RATE_CURVES: curve_table([row for item in analysed for row in item.curves]),
        evidence.CURVE_DIFFERENCES: curve_difference_table(
            [row for item in analysed for row in item.differences]
        ),
        evidence.DEFENCES: defence_table([row for item in analysed for row in item.defences]),
        evidence.MASKING: masking_table([row for item in analysed for row in item.checks]),
        diagnostics.CALIBRATION: calibration_table([row for item in analysed for row in item.calibration]),
        diagnostics.RECALL: recall_table([row for item in analysed for row in item.recalls]),
        diagnostics.FLIPS: flip_table([row for item in analysed for row in item.flips]),
        diagnostics.BREAKDOWN: breakdown_table([row for item in analysed for row in item.breakdowns]),
    }
    return {name: table for name, table in found.items() if table.num_rows}


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write every table beside the page, as CSV and Parquet; existing files are replaced."""
    for name, table in tables.items():
        write_both(folder, name, table)


_ATTACKED_METRICS = ("robust_accuracy", "attack_success_rate", "targeted_success_rate")
_FLOAT, _INT = pa.float64(), pa.int64()
_MATRIX_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "split", "model", "train_codec", "train_quality")),
        ("train_method", pa.string()),
        ("subject", pa.string()),
        ("test_codec", pa.string()),
        ("test_quality", pa.int32()),
        ("mean_rate_bpp", _FLOAT),
        ("attack", pa.string()),
        ("eps", _FLOAT),
        ("attack_settings", pa.string()),
        ("metric", pa.string()),
        *((name, _FLOAT) for name in ("value", "ci_low", "ci_high")),
        *((name, _INT) for name in ("num_samples", "num_seeds")),
    ]
)


def _matrix(sections: Sequence[Section]) -> pa.Table:
    """The points of figures and heat maps (means over seeds), with the rate of the test variant."""
    return _table((row for section in sections for row in _matrix_rows(section)), _MATRIX_SCHEMA)


def _table(rows: Iterable[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, item.type) for column, item in zip(columns, schema, strict=True)], schema=schema
    )


def _matrix_rows(section: Section) -> Iterable[Sequence[Any]]:
    for subject in section.subjects:
        for attack in section.attacks:
            for metric in ("accuracy",) if attack.is_none else _ATTACKED_METRICS:
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
                        subject.train_method,
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


_OF_CONDITION = (
    *("dataset", "split", "model", "checkpoint_id", "seed", "train_codec", "train_quality", "train_method"),
    *("test_codec", "test_quality", "simulation", "attack", "eps", "attack_settings", "threat"),
    *("defence_codec", "defence_quality", "decoder"),
)
_CLASS_SCHEMA = pa.schema(
    [
        *(CONDITION_SCHEMA.field(name) for name in _OF_CONDITION),
        ("class", pa.string()),
        ("label", _INT),
        *((name, _FLOAT) for name in ("recall", "ci_low", "ci_high")),
        ("num_samples", _INT),
        ("drop", _FLOAT),
    ]
)


def _classes(rows: Sequence[ClassRow], sections: Sequence[Section]) -> pa.Table:
    """Recall of each class under each condition, and its drop against the best test quality."""
    names = {(section.dataset, section.split): section for section in sections}
    return _table(
        (
            (
                *(getattr(row.condition, name) for name in _OF_CONDITION),
                names[row.condition.dataset, row.condition.split].class_name(row.label),
                row.label,
                row.recall,
                row.ci_low,
                row.ci_high,
                row.num_samples,
                row.drop,
            )
            for row in rows
        ),
        _CLASS_SCHEMA,
    )


_ENCODING_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "split", "codec")),
        ("quality", pa.int32()),
        *((item.name, _INT if item.type == "int" else _FLOAT) for item in fields(EncodingSummary)),
    ]
)


def _encodings(sections: Sequence[Section]) -> pa.Table:
    """Rate, PSNR and SSIM of each variant over each evaluated split."""
    lines: list[Sequence[Any]] = []
    for section in sections:
        for variant in section.encoded_variants():
            summary = section.data.summary(variant, section.split) if section.data else None
            assert summary is not None
            lines.append((section.dataset, section.split, *variant, *asdict(summary).values()))
    return _table(lines, _ENCODING_SCHEMA)
