"""Holm's correction and non-inferiority: by hand, and what must not be claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.statistics import holm, non_inferiority


def test_holm_by_hand() -> None:
    # 4 tests: 0.01 · 3, 0.04 · 1 raised to 0.03 · 2, 0.005 · 4
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    # what could not be tested does not count
    assert holm([[0.01, math.nan], [0.04, 0.03]]) == pytest.approx(
        np.array([[0.03, math.nan], [0.06, 0.06]]), nan_ok=True
    )
    assert np.isnan(holm([math.nan])).all()
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, 1.5])


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_never_lowers_keeps_the_order_and_stays_below_bonferroni(p_values: list[float]) -> None:
    given_p, adjusted = np.array(p_values), holm(p_values)
    assert (adjusted >= given_p).all()
    assert (adjusted <= np.minimum(1, given_p * len(given_p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(given_p, kind="stable")]) >= -1e-12).all()


def losses(lost: int, gained: int, num_images: int, num_seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    before = np.tile(np.arange(num_images) >= gained, (num_seeds, 1))
    after = np.tile(np.arange(num_images) < num_images - lost, (num_seeds, 1))
    return before, after


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_no_flip_of_120_images_does_not_prove_a_loss_below_one_point(num_seeds: int) -> None:
    found = non_inferiority(*losses(0, 0, 120, num_seeds), 0.01)
    assert found.verdict == "cannot tell"
    assert found.loss == 0
    assert found.high > 3 / 120  # the rule of three
    # (1.96 + 0.84)² · 0.01 · 0.99 / 0.01²
    assert found.images_needed == pytest.approx(777, rel=0.03)
    enough = non_inferiority(*losses(0, 0, found.images_needed or 0), 0.01)
    assert (enough.verdict, enough.images_needed) == ("within", None)


def test_verdicts() -> None:
    assert non_inferiority(*losses(60, 0, 600), 0.05).verdict == "exceeds"
    assert non_inferiority(*losses(60, 50, 600), 0.06).verdict == "within"
    gained = non_inferiority(*losses(0, 60, 600), 0.01)
    assert (gained.verdict, gained.loss) == ("within", pytest.approx(-0.1))
    assert (gained.low, gained.high) == (-gained.comparison.high, -gained.comparison.low)
    beyond = non_inferiority(*losses(12, 6, 600), 0.01)  # the loss is the margin
    assert (beyond.verdict, beyond.images_needed) == ("cannot tell", None)
    one_sided = non_inferiority(*losses(12, 6, 600), 0.01, confidence=0.9)
    assert beyond.low < one_sided.low < one_sided.high < beyond.high


@pytest.mark.parametrize("num_images", [1, 2, 30, 120])
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_images_needed_do_not_depend_on_how_few_there_are(num_images: int, num_seeds: int) -> None:
    right = np.ones((num_seeds, num_images), bool)
    # (z₀.₉₇₅ + z₀.₈)² · 0.01 · 0.99 / 0.01²
    assert non_inferiority(right, right, 0.01).images_needed == pytest.approx(777, rel=0.005)


@pytest.mark.parametrize(("num_lost", "verdict"), [(30, "within"), (51, "exceeds")])
def test_images_needed_give_a_verdict_in_four_samples_of_five(num_lost: int, verdict: str) -> None:
    found = non_inferiority(*losses(num_lost, 24, 600), 0.03 if verdict == "within" else 0.02)
    assert found.verdict == "cannot tell"
    assert found.images_needed is not None
    assert found.images_needed > 600
    generator = np.random.default_rng(0)
    chances = [num_lost / 600, 0.04, 0.96 - num_lost / 600]
    draws = generator.multinomial(found.images_needed, chances, size=200)
    told = [
        non_inferiority(*losses(lost, gained, found.images_needed), found.margin, num_resamples=500).verdict
        for lost, gained, _ in draws
    ]
    assert np.mean([one == verdict for one in told]) == pytest.approx(0.8, abs=0.1)


def test_more_images_do_not_help_where_seeds_differ() -> None:
    generator = np.random.default_rng(0)
    before = np.ones((3, 1000), bool)
    after = generator.random((3, 1000)) > np.array([[0.01], [0.05], [0.09]])
    found = non_inferiority(before, after, 0.06)
    assert (found.verdict, found.images_needed) == ("cannot tell", None)
    assert found.loss < 0.06


def test_other_scores_have_margins_in_their_own_unit() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(30, 3, size=(1, 400))
    after = before - generator.normal(0.5, 0.2, size=(1, 400))
    assert non_inferiority(before, after, 0.6).verdict == "within"
    assert non_inferiority(before, after, 0.4).verdict == "exceeds"
    # sd 0.2 and 0.02 away: about (2.8 · 0.2 / 0.02)² images, no floor for shares
    found = non_inferiority(before[:, :20], after[:, :20], float((before - after)[:, :20].mean()) + 0.02)
    assert found.verdict == "cannot tell"
    assert found.images_needed is not None
    assert 300 < found.images_needed < 1600


@pytest.mark.parametrize("margin", [0, -0.01, math.inf, math.nan])
def test_a_margin_must_be_a_loss(margin: float) -> None:
    with pytest.raises(SettingsError, match="margin"):
        non_inferiority(*losses(1, 1, 20), margin)
