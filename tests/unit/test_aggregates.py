"""Every number of the report, against counts made by hand and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import precision_recall_fscore_support

from limla.errors import DataError
from limla.reporting.aggregates import class_rows, metric_rows, metric_table, without_clean
from limla.results import METRIC_SCHEMA, PREDICTION_SCHEMA, Condition, MetricRow
from limla.statistics import macro_score_intervals, mean_interval, proportion_interval

CLEAN = Condition(
    dataset="set",
    data_id="d0",
    split="test",
    task="classification",
    model="MobileNetV2",
    checkpoint_id="c0",
    seed=0,
    train_codec="source",
    train_quality="source",
    train_method="standard",
    test_codec="source",
    test_quality=None,
    simulation="",
    preprocessing="shorter36-crop32",
    attack="none",
    norm="",
    eps=0.0,
    attack_settings="{}",
    threat="",
    defence_codec="",
    defence_quality="",
    decoder="cpu",
    precision="float32",
    batch_size=32,
)
ATTACKED = replace(CLEAN, attack="pgd", norm="linf", eps=8 / 255, attack_settings='{"steps":10}')


def rows_table(labels: list[int], predictions: list[int], keys: list[str] | None = None) -> pa.Table:
    """A prediction table; losses are 0.5, 1.5, 0.5 …"""
    number = len(labels)
    return pa.table(
        {
            "key": keys or [f"k{i}" for i in range(number)],
            "label": labels,
            "prediction": predictions,
            "correct": [a == b for a, b in zip(labels, predictions, strict=True)],
            "loss": [0.5 + i % 2 for i in range(number)],
            "confidence": [0.9] * number,
            "target": [None] * number,
            "num_bytes": [None] * number,
        },
        schema=PREDICTION_SCHEMA,
    )


def by_name(rows: list[MetricRow], condition: Condition) -> dict[str, MetricRow]:
    return {row.metric: row for row in rows if row.condition == condition}


LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
BEFORE = [0, 0, 0, 1, 1, 1, 1, 1, 2, 0]
AFTER = [1, 0, 1, 1, 1, 0, 0, 0, 0, 2]


def test_clean_scores_are_scikit_learns_with_intervals() -> None:
    rows = metric_rows([(CLEAN, rows_table(LABELS, BEFORE))])
    assert [row.metric for row in rows] == ["accuracy", "precision_macro", "recall_macro", "f1_macro", "loss"]
    found = by_name(rows, CLEAN)
    precision, recall, f1, _ = precision_recall_fscore_support(
        LABELS, BEFORE, average="macro", zero_division=0.0
    )
    assert found["accuracy"].value == 0.8
    assert (found["accuracy"].ci_low, found["accuracy"].ci_high) == proportion_interval(8, 10)
    assert found["precision_macro"].value == pytest.approx(precision)
    assert found["recall_macro"].value == pytest.approx(recall)
    assert found["f1_macro"].value == pytest.approx(f1)
    assert found["loss"].value == pytest.approx(1.0)
    assert (found["loss"].ci_low, found["loss"].ci_high) == mean_interval([0.5, 1.5] * 5)
    assert {row.num_samples for row in rows} == {10}


def test_attack_success_counts_only_what_was_correct_before() -> None:
    rows = metric_rows([(CLEAN, rows_table(LABELS, BEFORE)), (ATTACKED, rows_table(LABELS, AFTER))])
    found = by_name(rows, ATTACKED)
    assert "accuracy" not in found
    assert found["robust_accuracy"].value == 0.3
    # correct before: 0,1,2,4,5,6,7,8; of these 0,2,5,6,7,8 are flipped. Image 9 became correct: no success
    success = found["attack_success_rate"]
    assert (success.value, success.num_samples) == (6 / 8, 8)
    assert (success.ci_low, success.ci_high) == proportion_interval(6, 8)


def test_pairing_is_by_key_not_by_position() -> None:
    order = [3, 1, 4, 0, 9, 2, 6, 5, 8, 7]
    shuffled = rows_table([LABELS[i] for i in order], [AFTER[i] for i in order], [f"k{i}" for i in order])
    rows = metric_rows([(ATTACKED, shuffled), (CLEAN, rows_table(LABELS, BEFORE))])
    assert by_name(rows, ATTACKED)["attack_success_rate"].value == 6 / 8


def test_a_missing_clean_cell_leaves_the_success_rate_out_and_is_named() -> None:
    other_quality = replace(CLEAN, test_codec="jpeg", test_quality=10)
    predictions = [(other_quality, rows_table(LABELS, BEFORE)), (ATTACKED, rows_table(LABELS, AFTER))]
    assert "attack_success_rate" not in by_name(metric_rows(predictions), ATTACKED)
    assert without_clean(predictions) == [ATTACKED]
    assert without_clean([*predictions, (CLEAN, rows_table(LABELS, BEFORE))]) == []


def test_the_clean_cell_of_the_same_precision_and_batch_size_is_preferred() -> None:
    half = replace(CLEAN, precision="bfloat16", batch_size=64)
    predictions = [
        (half, rows_table(LABELS, LABELS)),
        (CLEAN, rows_table(LABELS, BEFORE)),
        (ATTACKED, rows_table(LABELS, AFTER)),
    ]
    assert by_name(metric_rows(predictions), ATTACKED)["attack_success_rate"].num_samples == 8
    without = [predictions[0], predictions[2]]
    assert by_name(metric_rows(without), ATTACKED)["attack_success_rate"].num_samples == 10


def test_a_defended_cell_is_paired_with_its_defended_clean_cell() -> None:
    codec = '"defence":{"subsampling":"420","version":"one 1.0"}'
    defended = {"defence_codec": "jpeg", "defence_quality": "50"}
    clean = replace(CLEAN, attack_settings=f"{{{codec}}}", **defended)
    attacked = replace(ATTACKED, attack_settings=f'{{{codec},"seed":0,"steps":10}}', threat="bpda", **defended)
    undefended = (CLEAN, rows_table(LABELS, LABELS))
    predictions = [undefended, (clean, rows_table(LABELS, BEFORE)), (attacked, rows_table(LABELS, AFTER))]
    success = by_name(metric_rows(predictions), attacked)["attack_success_rate"]
    assert (success.value, success.num_samples) == (6 / 8, 8)
    # neither the undefended cell nor one of another release of the codec stands in for it
    other = replace(clean, attack_settings=clean.attack_settings.replace("1.0", "1.1"))
    alone = [undefended, (other, rows_table(LABELS, BEFORE)), (attacked, rows_table(LABELS, AFTER))]
    assert without_clean(alone) == [attacked]


def test_a_defence_that_draws_is_paired_with_its_own_draw() -> None:
    drawn = {"defence_codec": "jpeg", "defence_quality": "10+50"}
    clean = replace(CLEAN, attack_settings='{"defence":{},"seed":0}', **drawn)
    attacked = replace(ATTACKED, attack_settings='{"defence":{},"seed":0,"steps":10}', threat="static", **drawn)
    rows = [rows_table(LABELS, BEFORE), rows_table(LABELS, AFTER)]
    assert without_clean(list(zip([clean, attacked], rows, strict=True))) == []
    other_seed = replace(clean, attack_settings='{"defence":{},"seed":1}')
    for other in (other_seed, replace(clean, batch_size=8)):
        assert without_clean(list(zip([other, attacked], rows, strict=True))) == [attacked]


def test_a_simulated_cell_is_paired_with_what_the_same_release_simulated() -> None:
    simulated = {"simulation": "dali", "test_codec": "jpeg", "test_quality": 10}
    clean = replace(CLEAN, attack_settings='{"simulation":{"version":"dali 1"}}', **simulated)
    attacked = replace(ATTACKED, attack_settings='{"simulation":{"version":"dali 1"},"steps":10}', **simulated)
    rows = [rows_table(LABELS, BEFORE), rows_table(LABELS, AFTER)]
    assert without_clean(list(zip([clean, attacked], rows, strict=True))) == []
    other = replace(clean, attack_settings='{"simulation":{"version":"dali 2"}}')
    assert without_clean(list(zip([other, attacked], rows, strict=True))) == [attacked]


def test_targeted_attacks_have_a_targeted_success_rate() -> None:
    targets = [1, 2, 1, 2, 0, 0, 2, 0, 2, 0]
    table = rows_table(LABELS, AFTER)
    table = table.set_column(table.column_names.index("target"), "target", pa.array(targets, pa.int32()))
    rows = metric_rows([(CLEAN, rows_table(LABELS, BEFORE)), (ATTACKED, table)])
    found = by_name(rows, ATTACKED)
    # correct before: 0,1,2,4,5,6,7,8; 8 is aimed at its own label; 0, 2, 5 and 7 are where the attack wanted them
    success = found["targeted_success_rate"]
    assert (success.value, success.num_samples) == (4 / 7, 7)
    assert (success.ci_low, success.ci_high) == proportion_interval(4, 7)
    assert found["attack_success_rate"].value == 6 / 8
    untargeted = metric_rows([(CLEAN, rows_table(LABELS, BEFORE)), (ATTACKED, rows_table(LABELS, AFTER))])
    assert "targeted_success_rate" not in by_name(untargeted, ATTACKED)


def test_nothing_correct_before_has_no_success_rate() -> None:
    wrong = [(label + 1) % 3 for label in LABELS]
    rows = metric_rows([(CLEAN, rows_table(LABELS, wrong)), (ATTACKED, rows_table(LABELS, AFTER))])
    success = by_name(rows, ATTACKED)["attack_success_rate"]
    assert math.isnan(success.value)
    assert (success.ci_low, success.ci_high, success.num_samples) == (None, None, 0)


def test_different_images_under_one_data_set_are_refused() -> None:
    clean = rows_table(LABELS, BEFORE, [f"x{i}" for i in range(10)])
    with pytest.raises(DataError, match="different images"):
        metric_rows([(CLEAN, clean), (ATTACKED, rows_table(LABELS, AFTER))])
    with pytest.raises(DataError, match="an image twice"):
        metric_rows([(CLEAN, rows_table([0, 1], [0, 1], ["a", "a"]))])


def test_one_image_and_a_lost_model_give_no_interval_of_the_loss() -> None:
    one = by_name(metric_rows([(CLEAN, rows_table([0], [0]))]), CLEAN)
    assert (one["loss"].ci_low, one["loss"].ci_high) == (None, None)
    table = rows_table([0, 1], [0, 1])
    lost = table.set_column(4, "loss", pa.array([math.inf, 1.0], pa.float32()))
    assert math.isnan(by_name(metric_rows([(CLEAN, lost)]), CLEAN)["loss"].value)


def test_class_recall_and_drop_against_the_best_quality() -> None:
    q50 = replace(CLEAN, test_codec="jpeg", test_quality=50, data_id="d50")
    q5 = replace(CLEAN, test_codec="jpeg", test_quality=5, data_id="d5")
    on_source = [(q5, rows_table(LABELS, AFTER)), (CLEAN, rows_table(LABELS, BEFORE))]
    found = {(row.condition, row.label): row for row in class_rows(on_source)}
    assert (found[CLEAN, 0].recall, found[CLEAN, 0].drop, found[CLEAN, 0].num_samples) == (0.75, 0.0, 4)
    assert (found[q5, 0].recall, found[q5, 0].drop) == (0.25, 0.5)
    assert (found[q5, 2].recall, found[q5, 2].drop) == (0.5, 0.0)
    assert (found[q5, 1].ci_low, found[q5, 1].ci_high) == proportion_interval(1, 4)
    without_source = {
        (row.condition, row.label): row for row in class_rows([on_source[0], (q50, rows_table(LABELS, LABELS))])
    }
    assert without_source[q5, 0].drop == 0.75
    assert without_source[q50, 0].drop == 0.0


def test_the_best_quality_is_that_of_the_codec_whichever_way_its_knob_turns() -> None:
    right, after = rows_table(LABELS, LABELS), rows_table(LABELS, AFTER)
    qp20, qp45 = (replace(CLEAN, test_codec="hevc", test_quality=qp, data_id=f"h{qp}") for qp in (20, 45))
    q5, q95 = (replace(CLEAN, test_codec="jpeg", test_quality=q, data_id=f"j{q}") for q in (5, 95))
    made = [(qp45, after), (qp20, right), (q95, after), (q5, right)]
    found = {(row.condition, row.label): row.drop for row in class_rows(made)}
    assert (found[qp20, 0], found[qp45, 0]) == (0.0, 0.75)
    assert (found[q95, 0], found[q5, 0]) == (0.0, -0.75)


def test_the_metric_table_keeps_the_schema() -> None:
    rows = metric_rows([(CLEAN, rows_table(LABELS, BEFORE)), (ATTACKED, rows_table(LABELS, AFTER))])
    table = metric_table(rows)
    assert table.schema == METRIC_SCHEMA
    assert table.num_rows == 11
    assert table["eps"].to_pylist()[-1] == 8 / 255


def test_the_bootstrap_needs_only_the_cells_that_occur() -> None:
    """Classes that never occur add no memory and change nothing: 3000 classes would be 144 GB otherwise."""
    generator = np.random.default_rng(0)
    small = generator.integers(1, 50, (4, 4))
    wide = np.zeros((3000, 3000), np.int64)
    wide[1000:1004, 1000:1004] = small
    for found, expected in zip(macro_score_intervals(wide), macro_score_intervals(small), strict=True):
        assert found == pytest.approx(expected)
