"""The defence table: every number against counts made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from limla.analysis.attacked import crop_side, share
from limla.analysis.comparisons import comparisons
from limla.analysis.defence_table import DEFENCE_SCHEMA, defence_rows, defence_table
from limla.statistics import mean_interval, paired_difference, proportion_interval
from limla.types import Preprocessing
from tests.unit.trials import attacked, cell, defended, evidence, first

PGD = attacked("pgd", steps=10, alpha=2 / 255)
SIZES = [400 + place for place in range(200)]
CLEAN, DEFENDED = cell(first(180)), cell(first(160), defended({}, "50", ""), num_bytes=SIZES)


def test_a_row_holds_what_the_cells_hold() -> None:
    after = ~first(130)  # the last 70 survive, of which 160 - 130 = 30 were right behind the defence
    found = defence_rows(
        evidence(
            CLEAN,
            DEFENDED,
            cell(first(20), PGD),
            cell(after, defended(PGD, "50", "bpda"), num_bytes=SIZES),
            cell(first(150), defended(PGD, "50", "static"), num_bytes=SIZES),
        )
    )
    static, bpda = found
    assert (static.threat, bpda.threat) == ("static", "bpda")
    assert (bpda.defence, bpda.defence_codec, bpda.defence_quality) == ("jpeg q50", "jpeg", "50")
    assert (bpda.attack, bpda.norm, bpda.eps) == ("PGD-10, ε = 8/255", "linf", 8 / 255)
    assert (bpda.num_images, bpda.num_seeds, bpda.variant) == (200, 1, ("source", None))
    for row in found:
        assert row.clean is not None
        assert (row.clean.value, row.clean.low, row.clean.high) == (0.9, *proportion_interval(180, 200))
        assert row.clean_defended is not None
        assert row.clean_defended.value == 0.8
        assert row.robust is not None
        assert row.robust.value == 0.1
        assert row.targeted_success is None
    assert bpda.robust_defended is not None
    assert bpda.robust_defended.value == 0.35
    # of the 160 that were right behind the defence, 130 fell; the undefended cell would say 180
    assert bpda.success is not None
    assert (bpda.success.value, bpda.success.low) == (130 / 160, proportion_interval(130, 160).low)
    expected = paired_difference(first(20), after)
    assert bpda.difference is not None
    assert (bpda.difference.value, bpda.difference.low, bpda.difference.high) == (
        expected.difference,
        expected.low,
        expected.high,
    )
    assert bpda.p_value == expected.p_value


def test_p_values_are_corrected_with_every_comparison_of_the_split() -> None:
    found = evidence(CLEAN, DEFENDED, cell(first(20), PGD), cell(first(26), defended(PGD, "50", "bpda")))
    compared = comparisons(found)
    (row,) = defence_rows(found)
    assert [item.kind for item in compared] == ["defence", "defence"]
    assert row == defence_rows(found, compared)[0]
    assert row.p_value == pytest.approx(2 / 2**6)
    # the clean accuracy behind the defence has no row here, yet its smaller p-value is one of the family's two
    assert {item.family_size for item in compared} == {2}
    assert row.p_holm == row.p_value
    (alone,) = defence_rows(found, [replace(item, p_holm=0.5) for item in compared])
    assert alone.p_holm == 0.5


def test_bits_per_pixel_are_those_of_the_models_input() -> None:
    row = defence_rows(evidence(CLEAN, DEFENDED))[0]
    assert row.attack == "no attack"
    assert row.rate_bpp is not None
    assert row.rate_bpp.value == pytest.approx(8 * np.mean(SIZES) / 64**2)
    low, high = mean_interval(8 * np.array(SIZES) / 64**2)
    assert (row.rate_bpp.low, row.rate_bpp.high) == pytest.approx((low, high))
    whole = [
        cell(first(180), preprocessing="none"),
        cell(first(160), defended({}, "50", ""), num_bytes=SIZES, preprocessing="none"),
    ]
    assert defence_rows(evidence(*whole))[0].rate_bpp is None
    for preprocessing in (Preprocessing(), Preprocessing(96), Preprocessing(resize="none")):
        expected = preprocessing.image_size if preprocessing.resize == "crop" else None
        assert crop_side(preprocessing.describe()) == expected


def test_a_defence_that_met_no_attack_has_one_row() -> None:
    (row,) = defence_rows(evidence(CLEAN, DEFENDED))
    assert (row.robust, row.robust_defended, row.success, row.threat) == (None, None, None, "")
    assert row.difference is not None
    assert row.difference.value == pytest.approx(-0.1)
    assert defence_rows(evidence(CLEAN)) == []


def test_what_was_not_evaluated_is_none() -> None:
    (row,) = defence_rows(evidence(cell(first(40), defended(PGD, "50", "bpda"))))
    assert (row.clean, row.clean_defended, row.robust, row.success, row.difference) == (None,) * 5
    assert (row.p_value, row.p_holm, row.rate_bpp) == (None, None, None)
    assert row.robust_defended is not None


def test_targeted_success_counts_only_the_right_ones_aimed_elsewhere() -> None:
    labels = np.arange(200) % 10
    aims = (labels + 2) % 10
    aims[:10] = labels[:10]
    said = np.where(first(100), aims, (labels + 1) % 10)
    attack = cell(
        first(0), defended(PGD, "50", "bpda"), targets=aims.tolist(), predictions=said, num_bytes=SIZES
    )
    (row,) = defence_rows(evidence(CLEAN, DEFENDED, attack))
    assert row.targeted_success is not None
    assert row.targeted_success.value == 90 / 150
    assert row.success is not None
    assert row.success.value == 150 / 160


def test_seeds_pair_with_themselves() -> None:
    cells = [cell(first(180), seed=seed) for seed in range(3)]
    cells += [cell(first(160), defended({}, "50", ""), seed=seed, num_bytes=SIZES) for seed in range(3)]
    cells += [
        cell(first(100 + seed), defended(PGD, "50", "bpda"), seed=seed, num_bytes=SIZES) for seed in (1, 2)
    ]
    (row,) = defence_rows(evidence(*cells))
    assert row.num_seeds == 2
    assert row.success is not None
    assert row.success.value == pytest.approx((59 + 58) / 320)


def test_the_table_has_three_columns_for_each_number() -> None:
    rows = defence_rows(evidence(CLEAN, DEFENDED, cell(first(40), defended(PGD, "50", "bpda"))))
    table = defence_table(rows)
    assert table.schema == DEFENCE_SCHEMA
    assert table["success"].to_pylist() == [120 / 160]
    assert table["success_low"].to_pylist() == [proportion_interval(120, 160).low]
    assert table["robust"].to_pylist() == [None]
    assert table["test_quality"].to_pylist() == [None]
    assert defence_table([]).schema == DEFENCE_SCHEMA


def test_shares_of_several_seeds() -> None:
    generator = np.random.default_rng(0)
    hits = generator.random((4, 500)) < 0.3
    among = generator.random((4, 500)) < 0.7
    value, interval = share(hits, among)
    assert value == (hits & among).sum() / among.sum()
    assert 0 <= interval.low < value < interval.high <= 1
    # one seed alone: Wilson's; all alike: no narrower than that, though no seed differs from another
    alone, wilson = share(hits[:1], among[:1])
    number = int(among[0].sum())
    assert wilson == proportion_interval(round(alone * number), number)
    same, interval = share(np.repeat(hits[:1], 3, axis=0), np.repeat(among[:1], 3, axis=0))
    assert same == alone
    assert interval.low <= wilson.low
    assert interval.high >= wilson.high
    nothing = np.zeros((4, 500), bool)
    assert share(nothing, among)[1].high > 0
    assert np.isnan(share(hits, nothing)[0])


def test_shares_of_seeds_that_differ_cover_the_truth() -> None:
    """Images and seeds vary; 95% intervals of 400 simulated studies hold the true share about as often."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        ease, skill = generator.normal(size=300), generator.normal(scale=0.3, size=(4, 1))
        hits = ease + skill + generator.normal(size=(4, 300)) > 0
        _, interval = share(hits, np.ones_like(hits))
        held += interval.low <= 0.5 <= interval.high
    assert 0.92 <= held / 400 <= 0.99
