"""The page: sections → tables, figures and sentences → one HTML file."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from limla.analysis.encodings import Variant, read_data_folders
from limla.analysis.subjects import Subject
from limla.errors import DataError
from limla.files import write_bytes
from limla.paths import AnyPath
from limla.progress import Progress
from limla.reporting import figures, tables
from limla.reporting.aggregates import ClassRow, class_rows, metric_rows, without_clean
from limla.reporting.headline import headline, percent
from limla.reporting.pictures import MAGNIFICATION, sample_strip
from limla.reporting.sections import Point, Section, Slot, sections
from limla.reporting.settings import audit_notes, audit_warnings, conversions, counts, manifest_rows
from limla.results import Condition, MetricRow, read_predictions
from limla.statistics import FEWEST_OF_EACH

_MAX_CLASSES = 30
_MAX_CLASS_FIGURES = 4
_MAX_TABLE_ROWS = 400
_PACKAGES = ("limla", "numpy", "scipy", "pyarrow", "matplotlib", "jinja2")


def write_report(results_dir: Path, data_dirs: Sequence[AnyPath], output: Path, progress: Progress) -> Path:
    """Write the page and its CSV files; see `limla.reporting.report`."""
    if output.is_dir():
        raise DataError(f"{output} is a folder: give --output the name of an HTML file")
    predictions = read_predictions(results_dir)
    data = read_data_folders(data_dirs)
    with progress.stage("aggregating", total=len(predictions), unit="conditions") as advance:
        rows = metric_rows(predictions)
        found = sections(rows, data)
        kept = {condition for section in found for condition in section.conditions}
        # a drop against a left-out version of the data would be no drop
        predictions = [pair for pair in predictions if pair[0] in kept]
        of_classes = class_rows(predictions)
        advance(len(predictions))
    notes = _missing(found, predictions, data.keys())
    html = _render(found, rows, of_classes, notes, results_dir)
    beside = output.parent
    tables.write_metrics(beside / "metrics.csv", rows)
    tables.write_matrix(beside / "matrix.csv", found)
    tables.write_classes(beside / "classes.csv", of_classes, found)
    if any(section.encoded_variants() for section in found):
        tables.write_encodings(beside / "encoding.csv", found)
    write_bytes(output, html.encode("utf-8"))
    for note in notes:
        progress.say(f"note: {note}")
    return output


def _missing(found: Sequence[Section], predictions: Any, known: Iterable[str]) -> list[str]:
    """What a full report would show and this one cannot, one sentence each."""
    notes: list[str] = []
    for section in found:
        where = f"{section.dataset}, {section.split}: " if len(found) > 1 else ""
        notes += [f"{where}{note}" for note in section.notes]
        if section.data is None:
            notes.append(
                f"{where}Rates, PSNR, SSIM, class names and packing counts are not shown: the report was made "
                "without the dataset's shard folders (--data-dir)."
            )
        else:
            without = [
                section.variant_label(variant)
                for variant in section.variants
                if section.data.summary(variant, section.split) is None
            ]
            if without:
                notes.append(f"{where}No measured rate for: {', '.join(without)}.")
        if section.clean is None:
            notes.append(f"{where}No cell without an attack was evaluated: accuracy is not shown.")
        if all(attack.is_none for attack in section.attacks):
            notes.append(f"{where}No attack was evaluated: robust accuracy is not shown.")
        if all(quality is not None for _, quality in section.variants):
            notes.append(f"{where}The originals were not evaluated: the highest quality is the reference.")
        if len(section.variants) == 1:
            notes.append(f"{where}One test quality only: there is no curve to draw.")
    alone = without_clean(predictions)
    if alone:
        notes.append(
            f"No attack success rate for {len(alone)} attacked condition(s): the same condition without the "
            "attack, against which each image is paired, was not evaluated."
        )
    unused = sorted(set(known) - {section.dataset for section in found})
    notes += [f"No result is about the dataset '{name}' of --data-dir." for name in unused]
    return notes


def _render(
    found: Sequence[Section],
    rows: Sequence[MetricRow],
    of_classes: Sequence[ClassRow],
    notes: Sequence[str],
    results_dir: Path,
) -> str:
    environment = Environment(
        loader=PackageLoader("limla.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "report.css")[0]
    parts = [_section(section, number, of_classes, rows, results_dir) for number, section in enumerate(found)]
    return environment.get_template("report.html.j2").render(
        title=" and ".join(dict.fromkeys(section.dataset for section in found)),
        style=Markup(style),
        notes=notes,
        sections=parts,
        versions=_versions(),
        num_conditions=len({row.condition for row in rows}),
        magnification=MAGNIFICATION,
        fewest_of_each=FEWEST_OF_EACH,
    )


def _versions() -> list[tuple[str, str]]:
    return [
        ("Python", platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in _PACKAGES),
    ]


def _section(
    section: Section,
    number: int,
    of_classes: Sequence[ClassRow],
    rows: Sequence[MetricRow],
    results_dir: Path,
) -> dict[str, Any]:
    """Everything the template shows of one section."""
    name = f"s{number + 1}"
    num_samples = sorted(
        {point.num_samples for (_, metric), point in section.points.items() if metric == "loss"}
    )
    own = [
        row
        for row in of_classes
        if (row.condition.dataset, row.condition.split) == (section.dataset, section.split)
    ]
    return {
        "id": name,
        "section": section,
        "headline": headline(section),
        "num_samples": " to ".join(str(n) for n in dict.fromkeys((num_samples[0], num_samples[-1]))),
        "num_runs": max(point.num_runs for point in section.points.values()),
        "curves_quality": _svg(figures.curves(section, "quality", f"{name}-quality")),
        "curves_rate": _svg(figures.curves(section, "rate", f"{name}-rate"))
        if any(section.rate_bpp(variant) for variant in section.variants)
        else None,
        "matrices": [
            (attack, _svg(figures.matrix(section, attack, f"{name}-matrix{index}")))
            for index, attack in enumerate(section.attacks)
        ],
        "encodings": _encodings(section),
        "rate_distortion": _rate_distortion(section, name),
        "num_measured": _num_measured(section),
        "class_figures": _class_figures(section, own, name),
        "strip": sample_strip(section, results_dir),
        "groups": _cells(section, rows),
        "num_cells": sum(map(len, section.cells.values())),
        "max_cells": _MAX_TABLE_ROWS,
        "has_originals": any(quality is None for _, quality in section.variants),
        "models": list(dict.fromkeys(subject.model for subject in section.subjects)),
        "subjects": section.subjects,
        "class_counts": _class_counts(section, own),
        "manifests": manifest_rows(section.data) if section.data else [],
        "counts": counts(section.data) if section.data else [],
        "conversions": conversions(section.data) if section.data else [],
        "audit_notes": audit_notes(section.data) if section.data else [],
        "warnings": audit_warnings(section.data) if section.data else [],
        "conditions": _distinct(section),
    }


def _svg(text: str) -> Markup:
    """Mark a figure as HTML: matplotlib's writer escaped the names in it."""
    return Markup(text)


def _encodings(section: Section) -> list[tuple[str, Any]]:
    return [
        (section.variant_label(variant), section.data.summary(variant, section.split))
        for variant in section.encoded_variants()
        if section.data
    ]


def _rate_distortion(section: Section, name: str) -> Markup | None:
    measured = [
        summary
        for label, summary in _encodings(section)
        if label != "original" and summary.mean_psnr_db is not None
    ]
    return _svg(figures.rate_distortion(section, f"{name}-psnr")) if measured else None


def _num_measured(section: Section) -> str:
    """ "256", or "200 to 256", of the re-encoded variants with any measured image."""
    numbers = {summary.num_measured for label, summary in _encodings(section) if label != "original"} - {0}
    return " to ".join(str(number) for number in sorted({min(numbers), max(numbers)})) if numbers else "0"


def _class_figures(section: Section, own: Sequence[ClassRow], name: str) -> list[dict[str, Any]]:
    """Per-class drops of the first training condition of each model, classes that lose most first."""
    if section.clean is None:
        return []
    found: list[dict[str, Any]] = []
    first_of_model = {subject.model: subject for subject in reversed(section.subjects)}
    for subject in [s for s in section.subjects if first_of_model[s.model] == s][:_MAX_CLASS_FIGURES]:
        drops, references, images = _class_values(section, subject, own)
        variants = [variant for variant in section.variants if variant in drops]
        if not variants:
            continue
        reference, others = variants[-1], variants[:-1][::-1]
        worst = drops[variants[0]]
        order = sorted(references, key=lambda label: (-worst.get(label, -math.inf), label))
        shown = order[:_MAX_CLASSES]
        values = [
            [100 * references[label], *(100 * drops[variant].get(label, math.nan) for variant in others)]
            for label in shown
        ]
        columns = [
            section.variant_label(variant).replace("original", "orig.") for variant in (reference, *others)
        ]
        labels = [f"{section.class_name(label)} (n={images[label]})" for label in shown]
        found.append(
            {
                "subject": subject,
                "svg": _svg(figures.class_drops(labels, columns, values, f"{name}-classes{len(found)}")),
                "reference": section.variant_label(reference),
                "num_shown": len(shown),
                "num_classes": len(order),
                "num_images": (min(images.values()), max(images.values())),
            }
        )
    return found


def _class_values(
    section: Section, subject: Subject, own: Sequence[ClassRow]
) -> tuple[dict[Variant, dict[int, float]], dict[int, float], dict[int, int]]:
    """Mean drop by variant and class, mean recall at the reference, images per class, of the clean cells."""
    assert section.clean is not None
    variant_of: dict[Condition, Variant] = {
        cell: variant
        for variant in section.variants
        for cell in section.cells.get((subject, variant, section.clean), ())
    }
    drops: dict[Variant, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    recalls: dict[Variant, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    images: dict[int, int] = {}
    for row in own:
        if row.condition in variant_of:
            variant = variant_of[row.condition]
            recalls[variant][row.label].append(row.recall)
            images[row.label] = row.num_samples
            if row.drop is not None:
                drops[variant][row.label].append(row.drop)
    best = [variant for variant in section.variants if variant in recalls][-1:]
    references = _means(recalls[best[0]]) if best else {}
    return {variant: _means(found) for variant, found in drops.items()}, references, images


def _means(values: dict[int, list[float]]) -> dict[int, float]:
    return {label: math.fsum(found) / len(found) for label, found in values.items()}


def _class_counts(section: Section, own: Sequence[ClassRow]) -> list[tuple[str, int]]:
    images: dict[int, int] = {}
    for row in own:
        images[row.label] = max(images.get(row.label, 0), row.num_samples)
    return [(section.class_name(label), images[label]) for label in sorted(images)]


def _cells(section: Section, rows: Sequence[MetricRow]) -> list[tuple[Subject, list[dict[str, Any]]]]:
    """The table of all metrics: per subject one line per condition, in reading order, up to the limit."""
    metrics: dict[Condition, dict[str, MetricRow]] = defaultdict(dict)
    for row in rows:
        metrics[row.condition][row.metric] = row
    groups: list[tuple[Subject, list[dict[str, Any]]]] = []
    left = _MAX_TABLE_ROWS
    for subject in section.subjects:
        lines = [
            _cell(section, slot, cell, metrics[cell])
            for slot in (
                (subject, variant, attack) for attack in section.attacks for variant in section.variants
            )
            for cell in section.cells.get(slot, ())
        ]
        groups.append((subject, lines[: max(left, 0)]))
        left -= len(lines)
    return [group for group in groups if group[1]]


def _cell(section: Section, slot: Slot, cell: Condition, found: dict[str, MetricRow]) -> dict[str, Any]:
    first = found.get("accuracy") or found["robust_accuracy"]
    shares = [first] + [
        found.get(name) for name in ("attack_success_rate", "precision_macro", "recall_macro", "f1_macro")
    ]
    return {
        "test": section.variant_label(slot[1]),
        "attack": slot[2].label,
        "seed": "–" if cell.seed < 0 else cell.seed,
        "num_samples": first.num_samples,
        "values": [*map(_text, shares[:2]), *map(_macro, shares[2:]), _loss(found["loss"])],
    }


def _text(row: MetricRow | None) -> str:
    if row is None:
        return "–"
    return percent(Point(row.value, row.ci_low, row.ci_high, row.num_samples, 1)).replace("%", "")


def _macro(row: MetricRow | None) -> str:
    """A score, and a dash where there is too little to estimate its interval from."""
    is_alone = row is not None and row.ci_low is None and not math.isnan(row.value)
    return f"{_text(row)} [–]" if is_alone else _text(row)


def _loss(row: MetricRow) -> str:
    if math.isnan(row.value):
        return "not finite"
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    return f"{row.value:.2f}{interval}"


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
    cells = [cell for found in section.cells.values() for cell in found]
    lines: list[tuple[str, str]] = []
    for name, label in names.items():
        values = sorted({str(getattr(cell, name)) for cell in cells} - {"", "{}"})
        lines.append((label, "; ".join(values) or "–"))
    return lines
