"""Aggregates from rows: every number of the report, and the tables a paper quotes.

All work is numpy on Arrow columns, one pass per condition and no loop over images.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limla.analysis.encodings import quality_rank
from limla.errors import DataError
from limla.files import canonical_json
from limla.manifest import SOURCE
from limla.metrics import (
    Flags,
    Labels,
    attack_success_rate,
    classification_scores,
    confusion_matrix,
    targeted_success_rate,
)
from limla.results import METRIC_SCHEMA, Condition, MetricRow
from limla.statistics import Interval, macro_score_intervals, mean_interval, proportion_interval

Predictions = Sequence[tuple[Condition, pa.Table]]
"""Conditions with their prediction tables, as `limla.results.read_predictions` gives them."""

NO_ATTACK = "none"
CLEAN_METRICS = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "loss")
ATTACKED_METRICS = (
    "robust_accuracy",
    "attack_success_rate",
    "targeted_success_rate",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "loss",
)


@dataclass(frozen=True)
class ClassRow:
    """One class under one condition.

    Attributes:
        condition: the condition.
        label: class index.
        recall: correct / images of the class, in [0, 1].
        ci_low, ci_high: Wilson 95% interval of the recall.
        num_samples: images of the class, at least 1.
        drop: recall under the reference condition minus this recall, in [-1, 1]; None without a reference.
    """

    condition: Condition
    label: int
    recall: float
    ci_low: float
    ci_high: float
    num_samples: int
    drop: float | None


def metric_rows(predictions: Predictions) -> list[MetricRow]:
    """All aggregates of all conditions, each with its 95% interval, in the order of the conditions.

    Without an attack: accuracy, precision_macro, recall_macro, f1_macro, loss. Under an attack:
    robust_accuracy and attack_success_rate in the place of accuracy, and targeted_success_rate where the rows have
    targets. Intervals: Wilson for the proportions, a bootstrap over images for the macro scores, Student's t for the
    mean loss (nats); None where there is nothing, or too little, to estimate one from.

    The two success rates pair each image with itself under the same condition without the attack, a defence
    included; their `num_samples` counts the images that they are shares of (`limla.metrics` defines them). Where that
    clean condition is not among `predictions` they are left out (`without_clean` lists these conditions); where it
    was correct on no image the value is NaN.

    Raises `DataError` when the keys of a condition are not distinct or do not match those of its clean pair.
    """
    clean = _clean_conditions(predictions)
    rows: list[MetricRow] = []
    for condition, table in predictions:
        _check_distinct(condition, table)
        measured = _scores(condition, table)
        if condition.attack != NO_ATTACK:
            before = clean.get(_pairing_key(condition))
            if before is not None:
                measured[1:1] = _success_rates(condition, table, _closest(condition, before))
        rows += measured
    return rows


def without_clean(predictions: Predictions) -> list[Condition]:
    """The attacked conditions whose attack success rate is unknown: no clean condition to pair with."""
    clean = _clean_conditions(predictions)
    return [
        condition
        for condition, _ in predictions
        if condition.attack != NO_ATTACK and _pairing_key(condition) not in clean
    ]


def class_rows(predictions: Predictions) -> list[ClassRow]:
    """Recall of each class under each condition, and its drop against the best test quality.

    The reference of a condition is the same condition on the originals, or on the best quality of the same codec among
    `predictions` where the originals were not evaluated; the reference itself has drop 0. Only classes that
    occur among the labels have a row.
    """
    counts = [_class_counts(table) for _, table in predictions]
    references: dict[tuple[Any, ...], int] = {}
    for number, (condition, _) in enumerate(predictions):
        key = (*_reference_key(condition), condition.test_codec)
        known = references.get(key)
        if known is None or _rank(condition) > _rank(predictions[known][0]):
            references[key] = number
    rows: list[ClassRow] = []
    for number, (condition, _) in enumerate(predictions):
        key = _reference_key(condition)
        reference = references.get((*key, SOURCE), references[*key, condition.test_codec])
        rows += _rows_of_classes(condition, counts[number], counts[reference])
    return rows


def metric_table(rows: Iterable[MetricRow]) -> pa.Table:
    """MetricRows as an Arrow table of `METRIC_SCHEMA`: the columns of `metrics.csv`."""
    flat = [
        {**asdict(row.condition), **{k: v for k, v in asdict(row).items() if k != "condition"}} for row in rows
    ]
    return pa.Table.from_pylist(flat, schema=METRIC_SCHEMA)


def labels_and_predictions(table: pa.Table) -> tuple[Labels, Labels]:
    """The (N,) int64 true and predicted class indices of a prediction table."""
    return table["label"].to_numpy().astype(np.int64), table["prediction"].to_numpy().astype(np.int64)


def _scores(condition: Condition, table: pa.Table) -> list[MetricRow]:
    """The aggregates that need only the condition's own rows."""
    labels, predicted = labels_and_predictions(table)
    num_samples = len(labels)
    num_correct = int(np.sum(labels == predicted))
    num_classes = int(max(labels.max(), predicted.max())) + 1
    confusion = confusion_matrix(labels, predicted, num_classes)
    scores = classification_scores(confusion)
    # the cost of the bootstrap grows with the cells that occur; with a hundred classes and more, the macro means
    # are so near to normal that 500 resamples give the same interval to a tenth of its width
    num_resamples = min(2000, max(500, 1_000_000 // int(np.count_nonzero(confusion))))
    intervals = macro_score_intervals(confusion, num_resamples=num_resamples)
    loss = table["loss"].to_numpy().astype(np.float64)
    # a model driven to NaN or infinite logits has no mean loss, and no interval of it
    finite = bool(np.isfinite(loss).all())
    first = "accuracy" if condition.attack == NO_ATTACK else "robust_accuracy"
    measured: list[tuple[str, float, Interval]] = [
        (first, scores.accuracy, proportion_interval(num_correct, num_samples)),
        ("precision_macro", scores.precision_macro, intervals.precision_macro),
        ("recall_macro", scores.recall_macro, intervals.recall_macro),
        ("f1_macro", scores.f1_macro, intervals.f1_macro),
        (
            "loss",
            float(loss.mean()) if finite else math.nan,
            mean_interval(loss) if finite else Interval(math.nan, math.nan),
        ),
    ]
    return [_metric_row(condition, name, value, interval, num_samples) for name, value, interval in measured]


def _success_rates(
    condition: Condition, table: pa.Table, before: tuple[Condition, pa.Table]
) -> list[MetricRow]:
    correct_before = _aligned_correct(before, (condition, table))
    correct_after = _correct(table)
    rate = attack_success_rate(correct_before, correct_after)
    rows = [_share(condition, "attack_success_rate", rate, int(correct_before.sum()))]
    # files of older versions lack the column
    if "target" in table.column_names and table["target"].null_count == 0:
        labels, predicted = labels_and_predictions(table)
        targets = table["target"].to_numpy().astype(np.int64)
        rate = targeted_success_rate(correct_before, labels, targets, predicted)
        rows.append(
            _share(condition, "targeted_success_rate", rate, int(np.sum(correct_before & (labels != targets))))
        )
    return rows


def _share(condition: Condition, metric: str, value: float, number: int) -> MetricRow:
    """A share of `number` images with Wilson's interval."""
    interval = proportion_interval(round(value * number) if number else 0, number)
    return _metric_row(condition, metric, value, interval, number)


def _metric_row(condition: Condition, metric: str, value: float, interval: Interval, number: int) -> MetricRow:
    low, high = (None if math.isnan(end) else end for end in interval)
    return MetricRow(condition, metric, value, low, high, number)


def _correct(table: pa.Table) -> Flags:
    return table["correct"].to_numpy(zero_copy_only=False).astype(np.bool_)


def _aligned_correct(before: tuple[Condition, pa.Table], after: tuple[Condition, pa.Table]) -> Flags:
    """`correct` of the clean table in the order of the attacked table's keys."""
    correct = _correct(before[1])
    keys_before, keys_after = (table["key"].combine_chunks() for _, table in (before, after))
    if keys_before.equals(keys_after):
        return correct
    places = pc.call_function("index_in", [keys_after], pc.SetLookupOptions(value_set=keys_before))
    if places.null_count or len(keys_before) != len(keys_after):
        raise DataError(
            f"cells {before[0].cell_id} (clean) and {after[0].cell_id} ({after[0].attack}) hold different "
            "images of one data set; remove both prediction files and evaluate again"
        )
    return correct[places.to_numpy()]


def _check_distinct(condition: Condition, table: pa.Table) -> None:
    if len(table["key"].unique()) != table.num_rows:
        raise DataError(
            f"cell {condition.cell_id} holds an image twice; remove its prediction file and evaluate again"
        )


def _pairing_key(condition: Condition) -> Condition:
    """The condition without its attack, and without what leaves clean predictions alike.

    A defence and a simulation stay with all their settings. Where a defence draws qualities, so do seed and batch
    size, on which the draw depends: an image is compared with itself at one quality.
    """
    # without either nothing of the settings is kept, so they need not be limla's own JSON
    has_own = condition.defence_codec or condition.simulation
    settings = json.loads(condition.attack_settings or "{}") if has_own else {}
    draws = "+" in condition.defence_quality
    names = ("defence", "simulation", *(("seed",) if draws else ()))
    kept = {name: settings[name] for name in names if name in settings}
    return replace(
        condition,
        attack=NO_ATTACK,
        norm="",
        eps=0.0,
        attack_settings=canonical_json(kept),
        threat="",
        precision="",
        batch_size=condition.batch_size if draws else 0,
    )


def _clean_conditions(predictions: Predictions) -> dict[Condition, list[tuple[Condition, pa.Table]]]:
    found: dict[Condition, list[tuple[Condition, pa.Table]]] = {}
    for condition, table in predictions:
        if condition.attack == NO_ATTACK:
            found.setdefault(_pairing_key(condition), []).append((condition, table))
    return found


def _closest(condition: Condition, candidates: list[tuple[Condition, pa.Table]]) -> tuple[Condition, pa.Table]:
    """The clean cell nearest to the attacked one: of its precision and batch size where there is one."""
    return min(
        candidates,
        key=lambda pair: (
            pair[0].precision != condition.precision,
            pair[0].batch_size != condition.batch_size,
            pair[0].cell_id,
        ),
    )


def _reference_key(condition: Condition) -> tuple[Any, ...]:
    """What conditions share that differ in the test variant only."""
    return tuple(
        value
        for name, value in asdict(condition).items()
        if name not in ("test_codec", "test_quality", "data_id", "batch_size", "precision")
    )


def _rank(condition: Condition) -> float:
    return quality_rank((condition.test_codec, condition.test_quality))


def _class_counts(table: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images and correct images of each class, two (C,) arrays."""
    labels, predicted = labels_and_predictions(table)
    num_classes = int(labels.max()) + 1
    return (
        np.bincount(labels, minlength=num_classes),
        np.bincount(labels[labels == predicted], minlength=num_classes),
    )


# a class has few images, so the same few intervals return for every class and condition
_class_interval = functools.lru_cache(maxsize=4096)(proportion_interval)


def _rows_of_classes(
    condition: Condition,
    counts: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    reference: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> list[ClassRow]:
    rows: list[ClassRow] = []
    images, hits = counts
    reference_images, reference_hits = reference
    for label in np.flatnonzero(images):
        recall = float(hits[label] / images[label])
        known = label < len(reference_images) and reference_images[label] > 0
        drop = float(reference_hits[label] / reference_images[label]) - recall if known else None
        low, high = _class_interval(int(hits[label]), int(images[label]))
        rows.append(ClassRow(condition, int(label), recall, low, high, int(images[label]), drop))
    return rows
