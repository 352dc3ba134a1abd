"""Recall per class: by hand, paired by image and seed, the worst class first, corrected over the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limla.analysis.classes import RECALL_SCHEMA, recall_rows, recall_table
from limla.analysis.encodings import read_data_folders
from limla.analysis.pairs import collect
from limla.statistics import holm, paired_difference
from tests.unit.reported import HOSTILE, NUM_IMAGES, write_data
from tests.unit.trials import attacked, cell, defended, evidence, first

LABELS = np.repeat([0, 1, 5], [100, 60, 40])


def test_the_worst_class_comes_first_with_its_numbers() -> None:
    before = np.ones(200, bool)
    before[:10] = False
    after = before.copy()
    after[100:130] = False  # class 1 loses 30 of 60
    after[10:12], after[0] = False, True  # class 0 loses 2 and gains 1
    rows = recall_rows(
        evidence(cell(before, labels=LABELS.tolist()), cell(after, quality=10, labels=LABELS.tolist()))
    )
    assert [row.label for row in rows] == [1, 0, 5]
    worst, little, none = rows
    assert (worst.recall_before, worst.recall, worst.difference, worst.num_images) == (1.0, 0.5, -0.5, 60)
    assert (little.recall_before, little.recall) == (0.9, 0.89)
    assert little.difference == pytest.approx(-0.01)
    assert none.difference == 0.0
    assert none.low is not None
    assert none.low < 0
    for row in rows:
        of_class = row.label == LABELS
        expected = paired_difference(before[of_class], after[of_class])
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
        assert row.p_value == pytest.approx(expected.p_value)
    adjusted = holm([row.p_value or 0.0 for row in rows])
    assert [row.p_holm for row in rows] == pytest.approx(adjusted.tolist())
    assert {(row.change, row.variant, row.defence) for row in rows} == {("quality", ("jpeg", 10), "")}


def test_several_seeds_are_those_of_the_statistics_package() -> None:
    generator = np.random.default_rng(0)
    before, after = (generator.random((3, 200)) < share for share in (0.9, 0.6))
    cells = [cell(before[seed], seed=seed) for seed in range(3)]
    cells += [
        cell(after[seed], seed=seed, quality=5, order=generator.permutation(200).tolist()) for seed in (2, 0, 1)
    ]
    rows = recall_rows(evidence(*cells))
    assert len(rows) == 10
    for row in rows:
        places = np.arange(200) % 10 == row.label
        expected = paired_difference(before[:, places], after[:, places])
        assert row.num_seeds == 3
        assert row.difference == pytest.approx(expected.difference)
        assert (row.low, row.high, row.p_value) == pytest.approx(
            (expected.low, expected.high, expected.p_value), abs=1e-9
        )
        assert row.recall == pytest.approx(after[:, places].mean())


def test_references_are_the_originals_or_the_best_quality_or_no_defence() -> None:
    def changes(*cells: object) -> set[tuple[str, object, str, float]]:
        rows = recall_rows(evidence(*cells))  # type: ignore[arg-type]
        return {
            (row.change, row.variant[1], row.defence, round(row.recall_before, 3))
            for row in rows
            if row.label == 0
        }

    low, high, source = (
        cell(first(number), quality=quality) for number, quality in ((40, 5), (80, 50), (120, None))
    )
    assert changes(low, high, source) == {("quality", 5, "", 0.6), ("quality", 50, "", 0.6)}
    assert changes(low, high) == {("quality", 5, "", 0.4)}
    guarded = cell(first(60), defended({}, "50", ""))
    assert changes(source, guarded) == {("defence", None, "jpeg q50", 0.6)}
    assert changes(guarded) == set()
    # attacks are no part of this
    assert changes(source, cell(first(10), attacked("fgsm"), quality=5)) == set()


def test_class_names_come_from_the_shards(tmp_path: Path) -> None:
    data = read_data_folders([write_data(tmp_path / "flowers")])
    labels = (np.arange(NUM_IMAGES) % 3).tolist()
    cells = [
        cell(first(number, NUM_IMAGES), quality=quality, labels=labels)
        for number, quality in ((30, 10), (50, None))
    ]
    (found,) = collect(cells, data)
    rows = recall_rows(found)
    assert {row.label: row.class_name for row in rows} == dict(enumerate(HOSTILE))


def test_the_table_has_a_row_per_class() -> None:
    rows = recall_rows(evidence(cell(first(120)), cell(first(80), quality=5)))
    table = recall_table(rows)
    assert table.schema == RECALL_SCHEMA
    assert table["difference"].to_pylist() == [row.difference for row in rows]
    assert set(table["test_quality"].to_pylist()) == {5}
    assert recall_table([]).schema == RECALL_SCHEMA
