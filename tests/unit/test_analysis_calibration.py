"""Calibration errors and their changes: by hand, against the function of one condition, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from limla.analysis.calibration import CALIBRATION_SCHEMA, calibration_rows, calibration_table
from limla.errors import DataError
from limla.statistics import expected_calibration_error
from tests.unit.trials import attacked, cell, evidence, first


def test_the_error_by_hand() -> None:
    """Ten images at 0.95 of which 5 are right, ten at 0.55 of which 8 are: (0.45 + 0.25) / 2."""
    right = np.r_[first(5, 10), first(8, 10)]
    (row,) = calibration_rows(evidence(cell(right, confidence=[0.95] * 10 + [0.55] * 10)))
    assert row.error == pytest.approx(0.35)
    # confidence 0.75 on average, accuracy 0.65
    assert row.overconfidence == pytest.approx(0.10)
    assert 0 <= row.error_low < 0.35 < row.error_high <= 1
    assert (row.change, row.change_low, row.change_high) == (None, None, None)
    assert (row.num_images, row.num_seeds, row.attack) == (20, 1, "no attack")


def test_the_error_is_that_of_the_statistics_package() -> None:
    generator = np.random.default_rng(0)
    for number in (7, 200):
        confidence = generator.random(number).astype(np.float32)
        confidence[:3] = 0, 1, np.float32(1 / 15)
        right = generator.random(number) < confidence
        (row,) = calibration_rows(evidence(cell(right, confidence=confidence)))
        assert row.error == pytest.approx(expected_calibration_error(confidence, right).value, rel=1e-6)


def test_the_change_pairs_images_and_seeds_with_the_originals() -> None:
    cells = []
    for seed in range(3):
        cells.append(cell(first(90), seed=seed, confidence=np.full(200, 0.5)))
        if seed:
            cells.append(cell(first(40), seed=seed, quality=10, confidence=np.full(200, 0.9)))
    found = {row.variant: row for row in calibration_rows(evidence(*cells))}
    row = found["jpeg", 10]
    assert row.num_seeds == 2
    assert row.error == pytest.approx(0.7)
    assert found["source", None].error == pytest.approx(0.05)
    assert row.change == pytest.approx(0.65, abs=0.01)
    assert row.change_low is not None
    assert row.change_high is not None
    assert row.change_low < 0.65 < row.change_high
    # nothing changed: no difference, whatever the error is and in whatever order the images come
    same = [
        cell(first(90), quality=quality, confidence=np.full(200, 0.7), order=order)
        for quality, order in ((None, None), (10, list(range(199, -1, -1))))
    ]
    row = next(row for row in calibration_rows(evidence(*same)) if row.variant[1])
    assert row.change == pytest.approx(0, abs=1e-9)
    assert row.change_low is not None
    assert row.change_high is not None
    assert row.change_low < 0 < row.change_high


def test_attacked_cells_compare_with_attacked_originals() -> None:
    fgsm = attacked("fgsm")
    cells = [cell(first(90)), cell(first(50), fgsm, quality=10), cell(first(20), fgsm)]
    found = {(row.attack, row.variant): row for row in calibration_rows(evidence(*cells))}
    assert found["FGSM, ε = 8/255", ("jpeg", 10)].change == pytest.approx(0.55 - 0.7, abs=0.01)
    alone = calibration_rows(evidence(cells[0], cells[1]))
    assert [row.change for row in alone] == [None, None]


def test_strange_confidences_are_refused_and_one_image_says_little() -> None:
    for strange in (1.5, -0.1, float("nan")):
        with pytest.raises(
            DataError, match=r"^cell \w+ holds a confidence that does not lie between 0 and 1: remove"
        ):
            calibration_rows(evidence(cell(first(1, 2), confidence=[0.5, strange])))
    (row,) = calibration_rows(evidence(cell(first(1, 1), confidence=[0.75])))
    assert row.error == 0.25
    assert row.error_low == 0
    assert row.error_high > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.12), (0.10, 0.22), (0.05, 0.05)])
def test_intervals_of_a_change_hold_the_truth(before: float, after: float) -> None:
    """100 simulated test sets of 500 images. A calibrated model before is the hardest case: few images alone give it
    an error, and a difference of plain errors would miss the truth four times in ten."""
    generator = np.random.default_rng(0)
    held, changes = 0, []
    for _ in range(100):
        chance, draw, other = generator.uniform(0.3, 0.7, 500), *generator.random((2, 500))
        drawn_anew = generator.random(500) < 0.5
        # half of the outcomes are kept
        cells = [
            cell(draw < chance, confidence=chance + before),
            cell(np.where(drawn_anew, other, draw) < chance, quality=10, confidence=chance + after),
        ]
        row = next(row for row in calibration_rows(evidence(*cells)) if row.variant[1])
        assert row.change is not None
        assert row.change_low is not None
        assert row.change_high is not None
        changes.append(row.change)
        held += row.change_low <= after - before <= row.change_high
    assert held / 100 >= 0.87
    assert np.mean(changes) == pytest.approx(after - before, abs=0.03)


def test_the_table_has_a_row_per_condition() -> None:
    rows = calibration_rows(evidence(cell(first(90)), cell(first(50), quality=10)))
    table = calibration_table(rows)
    assert table.schema == CALIBRATION_SCHEMA
    assert table["error"].to_pylist() == [row.error for row in rows]
    assert sorted(table["test_quality"].to_pylist(), key=str) == [10, None]
    assert calibration_table([]).schema == CALIBRATION_SCHEMA
