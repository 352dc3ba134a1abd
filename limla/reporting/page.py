"""The page: sections → tables, figures and sentences → one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limla.analysis.encodings import read_data_folders
from limla.analysis.masking import breaches
from limla.analysis.pairs import collect
from limla.errors import DataError
from limla.files import write_bytes
from limla.pages.page import render, versions
from limla.pages.shown import MAX_ROWS
from limla.paths import AnyPath
from limla.progress import Progress
from limla.reporting import curves, figures, tables
from limla.reporting.aggregates import ClassRow, class_rows, metric_rows
from limla.reporting.analysed import Analysed, analyse
from limla.reporting.cells import metric_cells, simulated_cells
from limla.reporting.class_figures import class_counts, class_figures
from limla.reporting.diagnostics import breakdown_tables, calibration_tables, flip_tables, recall_tables
from limla.reporting.evidence import (
    comparison_tables,
    curve_difference_table,
    defence_tables,
    limit_tables,
    masking_tables,
)
from limla.reporting.findings import topics
from limla.reporting.gallery import gallery
from limla.reporting.headline import headline
from limla.reporting.methods import methods
from limla.reporting.notes import missing
from limla.reporting.pictures import MAGNIFICATION, sample_strip
from limla.reporting.reliability import reliability_diagrams
from limla.reporting.sections import Section, sections
from limla.reporting.settings import audit_notes, audit_warnings, conversions, counts, manifest_rows
from limla.results import MetricRow, read_predictions
from limla.statistics import FEWEST_OF_EACH

_PACKAGES = ("limla", "numpy", "scipy", "pyarrow", "matplotlib", "plotly", "jinja2")


def write_report(
    results_dir: Path, data_dirs: Sequence[AnyPath], output: Path, progress: Progress, margin: float
) -> Path:
    """Write the page and its tables; see `limla.reporting.report`."""
    if output.is_dir():
        raise DataError(f"{output} is a folder: give --output the name of an HTML file")
    predictions = read_predictions(results_dir)
    data = read_data_folders(data_dirs)
    with progress.stage("aggregating", total=len(predictions), unit="conditions") as advance:
        rows = metric_rows(predictions)
        found = sections(rows, collect(predictions, data), data)
        kept = {condition for section in found for condition in section.conditions}
        # a drop against a left-out version of the data would be no drop
        predictions = [pair for pair in predictions if pair[0] in kept]
        of_classes = class_rows(predictions)
        advance(len(predictions))
    with progress.stage("comparing", total=len(found), unit="splits") as advance:
        analysed: list[Analysed] = []
        for section in found:
            analysed.append(analyse(section.evidence, margin))
            advance(1)
    notes = missing(found, predictions, data.keys())
    written = tables.tables_of(rows, of_classes, found, analysed)
    html = _render(list(zip(found, analysed, strict=True)), rows, of_classes, notes, results_dir, list(written))
    tables.write_tables(output.parent, written)
    write_bytes(output, html.encode("utf-8"))
    for note in notes:
        progress.say(f"note: {note}")
    return output


def _render(
    found: Sequence[tuple[Section, Analysed]],
    rows: Sequence[MetricRow],
    of_classes: Sequence[ClassRow],
    notes: Sequence[str],
    results_dir: Path,
    files: Sequence[str],
) -> str:
    parts = [
        _section(section, analysed, number, of_classes, rows, results_dir)
        for number, (section, analysed) in enumerate(found)
    ]
    values = {
        "title": " and ".join(dict.fromkeys(section.dataset for section, _ in found)),
        "notes": notes,
        "sections": parts,
        "files": files,
        "versions": versions(_PACKAGES),
        "num_conditions": len({row.condition for row in rows}),
        "magnification": MAGNIFICATION,
        "fewest_of_each": FEWEST_OF_EACH,
        "matched": curves.MATCHED,
    }
    return render("limla.reporting", "report.html.j2", values)


def _section(
    section: Section,
    analysed: Analysed,
    number: int,
    of_classes: Sequence[ClassRow],
    rows: Sequence[MetricRow],
    results_dir: Path,
) -> dict[str, Any]:
    """Everything the template shows of one section."""
    name = f"s{number + 1}"
    own = [
        row
        for row in of_classes
        if (row.condition.dataset, row.condition.split) == (section.dataset, section.split)
    ]
    part: dict[str, Any] = {
        "id": name,
        "section": section,
        "topics": topics(analysed),
        "headline": headline(section),
        "num_samples": _range([point.num_samples for _, point in _losses(section)]),
        "num_runs": max((point.num_runs for _, point in _losses(section)), default=1),
        "curves_quality": curves.accuracy_curves(section, "quality", f"{name}-quality"),
        "curves_rate": curves.accuracy_curves(section, "rate", f"{name}-rate"),
        "curves_eps": curves.eps_curves(section, f"{name}-eps"),
        "curves_defence": curves.defence_curves(section, f"{name}-defence"),
        "comparisons": comparison_tables(analysed.comparisons, "quality", "attack"),
        "training": comparison_tables(analysed.comparisons, "training"),
        "curves_training": curves.training_curves(section, f"{name}-training"),
        "limits": limit_tables(analysed.limits),
        "differences": curve_difference_table(analysed.differences),
        "defences": defence_tables(analysed.defences),
        "masking": masking_tables(analysed.checks),
        "num_breached": len(breaches(analysed.checks)),
        **_diagnostics(section, analysed, name),
        "simulated": simulated_cells(section),
        # matplotlib's writer escaped the names
        "matrices": [
            (attack, Markup(figures.matrix(section, attack, f"{name}-matrix{index}")))
            for index, attack in enumerate(section.attacks)
            if any(section.point(subject, variant, attack) for subject, variant, _ in section.cells)
        ],
        "class_figures": class_figures(section, own, name),
        "class_counts": class_counts(section, own),
        "strip": sample_strip(section, results_dir),
        "groups": metric_cells(section, rows),
        "num_cells": sum(map(len, section.cells.values())),
        "max_cells": MAX_ROWS,
        "has_originals": any(quality is None for _, quality in section.variants),
        "models": list(dict.fromkeys(subject.model for subject in section.subjects)),
        "subjects": section.subjects,
        "conditions": _distinct(section),
        "methods": methods(section, analysed, results_dir),
        **_of_data(section, name),
    }
    return {**part, "contents": _contents(part)}


def _diagnostics(section: Section, analysed: Analysed, name: str) -> dict[str, Any]:
    """Calibration, recall, flips and where the loss comes from."""
    shown, why_not = gallery(section, analysed.flips)
    return {
        "breakdown": breakdown_tables(analysed.breakdowns),
        "calibration": calibration_tables(analysed.calibration),
        "reliability": reliability_diagrams(section, f"{name}-reliability"),
        "recalls": recall_tables(analysed.recalls, section.class_name),
        "flips": flip_tables(analysed.flips, section.class_name),
        "gallery": shown,
        "no_gallery": why_not,
    }


def _losses(section: Section) -> list[tuple[Any, Any]]:
    return [(slot, point) for (slot, metric), point in section.points.items() if metric == "loss"]


def _range(numbers: Sequence[int]) -> str:
    """ "60", or "60 to 120"."""
    return " to ".join(map(str, sorted({min(numbers), max(numbers)}))) if numbers else "0"


def _of_data(section: Section, name: str) -> dict[str, Any]:
    """What the shard folders say."""
    data = section.data
    encodings = [
        (section.variant_label(variant), data.summary(variant, section.split))
        for variant in section.encoded_variants()
        if data
    ]
    measured = [
        summary.num_measured
        for label, summary in encodings
        if summary and label != "original" and summary.num_measured
    ]
    return {
        "encodings": encodings,
        "rate_distortion": curves.rate_distortion(section, f"{name}-psnr") if data else None,
        "num_measured": _range(measured),
        "manifests": manifest_rows(data) if data else [],
        "counts": counts(data) if data else [],
        "conversions": conversions(data) if data else [],
        "audit_notes": audit_notes(data) if data else [],
        "warnings": audit_warnings(data) if data else [],
    }


def _contents(part: dict[str, Any]) -> list[tuple[str, str]]:
    """(anchor, title) of what the section holds, in reading order."""
    every = (
        ("curves", "Accuracy against quality and rate", True),
        ("eps", "Robust accuracy against ε", part["curves_eps"]),
        ("matrix", "Train × test matrix", part["matrices"]),
        ("comparisons", "Paired comparisons", True),
        ("limits", "How far to compress", part["limits"]),
        ("rates", "Rate curves compared", part["differences"]),
        ("training", "Training conditions compared", part["training"] or part["curves_training"]),
        ("defence", "Compression as a defence", part["defences"]),
        ("masking", "Checks for gradient masking", part["masking"]),
        ("breakdown", "Where the loss comes from", part["breakdown"]),
        ("encoding", "Rate and distortion", True),
        ("calibration", "Calibration", part["calibration"]),
        ("classes", "Classes", True),
        ("flips", "Images that flip first", part["flips"]),
        ("samples", "Sample images", True),
        ("simulated", "Simulated qualities", part["simulated"]),
        ("settings", "Settings and counts", True),
        ("methods", "Methods, to paste", True),
        ("metrics", "All metrics", True),
    )
    return [(f"{part['id']}-{anchor}", title) for anchor, title, there in every if there]


def _distinct(section: Section) -> list[tuple[str, str]]:
    """Settings of the evaluation: each condition field with all its values."""
    names = {
        "decoder": "decoder",
        "preprocessing": "resize and crop",
        "precision": "precision",
        "batch_size": "batch size",
        "norm": "norm of the perturbation",
        "attack_settings": "attack settings",
    }
    lines: list[tuple[str, str]] = []
    for name, label in names.items():
        values = sorted({str(getattr(cell, name)) for cell in section.conditions} - {"", "{}"})
        lines.append((label, "; ".join(values) or "–"))
    return lines
