"""Paired comparisons with numbers worked out by hand, and which slots are compared with which."""

from __future__ import annotations

from typing import Any

import pytest

from limla.analysis.comparisons import COMPARISON_SCHEMA, KINDS, Comparison, comparison_table, comparisons
from limla.statistics import paired_difference
from tests.unit.cells import FGSM, Cell, cell, evidence, images

MANY = images(20)
LOWEST = {"train_codec": "jpeg", "train_quality": "1"}
TRAINED = {"train_codec": "jpeg", "train_quality": "10", "checkpoint_id": "trained-on-q10"}


def right(number: int) -> str:
    """20 images of which the first `number` are right."""
    return ("1" * number).ljust(20, "0")


def many(quality: int | None, number: int, *attack: tuple[str, str, float, str], **changes: Any) -> Cell:
    """A cell of 20 images of which the first `number` are right."""
    return cell(quality, right(number), *attack, keys=MANY, **changes)


def said(rows: list[Comparison]) -> list[tuple[str, str, str]]:
    """What is compared."""
    return [(row.kind, row.where, row.change) for row in rows]


def test_difference_test_and_correction_by_hand() -> None:
    rows = comparisons(evidence(many(None, 20), many(10, 14), many(1, 10)))
    assert said(rows) == [
        ("quality", "MobileNetV2 · originals", "the originals → jpeg q1"),
        ("quality", "MobileNetV2 · originals", "the originals → jpeg q10"),
    ]
    lowest, low = rows
    assert (lowest.value_before, lowest.value_after) == (1.0, 0.5)
    assert lowest.result.difference == -0.5
    assert (lowest.prediction_flip_rate, low.prediction_flip_rate) == (0.5, 0.3)
    assert (lowest.result.num_lost, lowest.result.num_gained) == (10, 0)
    # exact McNemar: all 10 (6) discordant pairs on one side, twice 1/2^10 (1/2^6)
    assert lowest.result.p_value == pytest.approx(2 / 2**10)
    assert low.result.p_value == pytest.approx(2 / 2**6)
    # Holm: the smaller of two times 2, the larger times 1
    assert lowest.p_holm == pytest.approx(4 / 2**10)
    assert low.p_holm == pytest.approx(2 / 2**6)
    assert low.family == "2 comparisons on flowers, test"


def test_without_the_originals_the_best_quality_is_the_reference() -> None:
    rows = comparisons(evidence(many(50, 20), many(10, 14), many(1, 10)))
    assert [row.change for row in rows] == ["jpeg q50 → jpeg q1", "jpeg q50 → jpeg q10"]
    assert comparisons(evidence(many(50, 20))) == []


def test_every_kind_of_comparison_and_nothing_else() -> None:
    behind = {"defence_codec": "jpeg", "defence_quality": "50", "attack_settings": '{"defence":{}}'}
    rows = comparisons(
        evidence(
            many(None, 18),
            many(10, 16),
            many(None, 4, FGSM),
            many(10, 8, FGSM),
            many(10, 15, **TRAINED),
            many(10, 9, FGSM, **TRAINED),
            many(None, 17, **behind),
            many(None, 12, FGSM, threat="static", **behind),
            many(None, 3, FGSM, threat="bpda", **behind),
        )
    )
    attack = "FGSM, ε = 8/255"
    subject = "MobileNetV2 · originals"
    assert said(rows) == [
        ("quality", subject, "the originals → jpeg q10"),
        ("training", "MobileNetV2, on jpeg q10", "trained on originals → jpeg q10"),
        ("training", f"MobileNetV2, on jpeg q10, {attack}", "trained on originals → jpeg q10"),
        ("attack", f"{subject}, {attack}", "the originals → jpeg q10"),
        ("defence", f"{subject}, on the originals", "no defence → jpeg q50"),
        ("defence", f"{subject}, on the originals, {attack}, static attacker", "no defence → jpeg q50"),
        ("defence", f"{subject}, on the originals, {attack}, bpda attacker", "no defence → jpeg q50"),
    ]
    assert [round(20 * row.result.difference) for row in rows] == [-2, -1, 1, 4, -1, 8, -1]
    assert {row.kind for row in rows} == set(KINDS)
    assert {row.family_size for row in rows} == {7}


def test_order_does_not_depend_on_that_of_the_cells() -> None:
    cells = [many(quality, 10, *attack) for quality in (None, 1, 50, 9) for attack in ((), (FGSM,))]
    forward, backward = comparisons(evidence(*cells)), comparisons(evidence(*cells[::-1]))
    assert forward == backward
    assert [row.after.variant[1] for row in forward] == [1, 9, 50, 1, 9, 50]


def test_seeds_are_pooled_and_those_on_one_side_only_left_out() -> None:
    rows = comparisons(
        evidence(
            *(many(None, number, seed=seed) for seed, number in enumerate((20, 18, 16))),
            *(many(10, number, seed=seed) for seed, number in ((0, 15), (2, 10))),
        )
    )
    (row,) = rows
    assert (row.result.num_seeds, row.result.num_images) == (2, 20)
    assert row.value_before == pytest.approx(0.9)
    assert row.result.difference == pytest.approx((-5 - 6) / 40)
    assert row.result == paired_difference(
        [[letter == "1" for letter in right(number)] for number in (20, 16)],
        [[letter == "1" for letter in right(number)] for number in (15, 10)],
    )


def test_checkpoints_that_differ_are_not_compared_by_quality() -> None:
    assert comparisons(evidence(many(None, 20, seed=0), many(10, 10, seed=1))) == []


def test_training_conditions_pair_by_seed_and_only_with_the_clean_trained_model() -> None:
    rows = comparisons(
        evidence(
            *(many(10, 10, seed=seed) for seed in (0, 1)),
            *(
                many(10, 12, seed=seed, train_codec="jpeg", train_quality="1", checkpoint_id=f"q1-{seed}")
                for seed in (1, 2)
            ),
            many(10, 14, train_method="pgd linf", checkpoint_id="madry"),
            many(10, 16, train_quality="unknown", checkpoint_id="bought", seed=-1),
            many(10, 18, model="ResNet18", **LOWEST, checkpoint_id="resnet"),
        )
    )
    assert [(row.change, row.result.num_seeds) for row in rows] == [
        ("trained on originals → jpeg q1", 1),
        ("trained on originals → originals, pgd linf", 1),
    ]


def test_identical_predictions_are_no_difference_and_no_certainty() -> None:
    (row,) = comparisons(evidence(many(None, 12), many(10, 12)))
    assert (row.result.difference, row.result.flip_rate, row.result.p_value, row.p_holm) == (0, 0, 1, 1)
    assert row.result.low < 0 < row.result.high


def test_one_image_is_compared_without_any_claim() -> None:
    (row,) = comparisons(evidence(cell(None, "1"), cell(10, "0")))
    assert row.result.difference == -1
    assert row.p_holm == 1
    (line,) = comparison_table([row]).to_pylist()
    assert line["num_images"] == 1
    assert line["detectable"] is None


def test_rows_as_a_table() -> None:
    rows = comparisons(evidence(many(None, 20, FGSM), many(10, 14, FGSM)))
    table = comparison_table(rows)
    assert table.schema == COMPARISON_SCHEMA
    (line,) = table.to_pylist()
    expected = {
        "kind": "attack",
        "dataset": "flowers",
        "split": "test",
        "model": "MobileNetV2",
        "attack": "fgsm",
        "eps": 8 / 255,
        "threat": "",
        "before_test_codec": "source",
        "before_test_quality": None,
        "after_test_codec": "jpeg",
        "after_test_quality": 10,
        "after_train_quality": "source",
        "after_defence_codec": "",
        "value_before": 1.0,
        "difference": pytest.approx(-0.3),
        "test": "McNemar exact",
        "num_lost": 6,
        "p_holm": pytest.approx(2 / 2**6),
        "family_size": 1,
    }
    assert {name: line[name] for name in expected} == expected
    assert comparison_table([]).schema == COMPARISON_SCHEMA


def test_trainings_that_only_their_checkpoint_tells_apart_are_all_compared_and_named() -> None:
    twins = {"train_codec": "jpeg", "train_quality": "10", "checkpoint_id": "trained"}
    rows = comparisons(
        evidence(
            many(None, 20, checkpoint_id="one"), many(None, 12, checkpoint_id="other"), many(None, 14, **twins)
        )
    )
    assert said(rows) == [
        ("training", "MobileNetV2, on the originals", "trained on originals (one) → jpeg q10"),
        ("training", "MobileNetV2, on the originals", "trained on originals (other) → jpeg q10"),
    ]
    assert [row.result.difference for row in rows] == pytest.approx([-0.3, 0.1])


def test_what_else_tells_subjects_apart_is_named() -> None:
    rows = comparisons(
        evidence(
            *(
                many(None, 20, decoder=decoder, **changes)
                for decoder in ("cpu", "dali")
                for changes in ({}, TRAINED)
            )
        )
    )
    assert sorted(row.where for row in rows) == [
        "MobileNetV2 · cpu, on the originals",
        "MobileNetV2 · dali, on the originals",
    ]
