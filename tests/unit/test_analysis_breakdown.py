"""Chains of conditions found in rows, and each step's share of the loss, on images written down one by one."""

from __future__ import annotations

import pytest

from limla.analysis.breakdown import Breakdown, breakdown_table, breakdowns
from limla.statistics import paired_difference
from limla.types import Preprocessing, Reading, split_reading
from tests.unit.cells import FGSM, Cell, cell, evidence, images

CROP = Preprocessing(image_size=96)
FAST = {"decoder": "cpu-fast", "preprocessing": "shorter110-crop96"}
LAST = {"decoder": "cpu-fast", "preprocessing": "shorter110-crop96-aliased"}
USUAL = {"decoder": "cpu", "preprocessing": "shorter110-crop96"}
NUMBER = 20
# right images, of 20: loses 1, gains 2, loses 5, loses 8
SOURCE, DECODER, RESIZE = "1" * 16 + "0" * 4, "1" * 15 + "0" * 5, "1" * 17 + "0" * 3
CODEC, ATTACKED = "1" * 12 + "0" * 8, "1" * 4 + "0" * 16


def chain(**changes: object) -> list[Cell]:
    """A whole chain of one checkpoint."""
    keys = images(NUMBER)
    return [
        cell(None, SOURCE, keys=keys, **USUAL, **changes),
        cell(None, DECODER, keys=keys, **FAST, **changes),
        cell(None, RESIZE, keys=keys, **LAST, **changes),
        cell(10, CODEC, keys=keys, **LAST, **changes),
        cell(10, ATTACKED, FGSM, keys=keys, **LAST, **changes),
    ]


def only(*cells: Cell) -> Breakdown:
    (found,) = breakdowns(evidence(*cells))
    return found


def test_each_steps_share_of_the_loss_is_worked_out_by_hand() -> None:
    found = only(*chain(seed=3))
    assert [step.kind for step in found.steps] == ["source", "decoder", "resize", "codec", "attack"]
    assert [round(step.accuracy * NUMBER) for step in found.steps] == [16, 15, 17, 12, 4]
    assert found.steps[0].change is None
    assert found.steps[0].share is None
    changes = [step.change.difference * NUMBER for step in found.steps[1:] if step.change]
    assert changes == pytest.approx([-1, 2, -5, -8])
    shares = [step.share for step in found.steps[1:]]
    assert shares == pytest.approx([1 / 12, -2 / 12, 5 / 12, 8 / 12])
    assert found.total.difference == pytest.approx(-12 / NUMBER)
    assert (found.seeds, found.num_images, found.split) == ((3,), NUMBER, "test")
    assert found.steps[3].text == "jpeg q10"
    assert found.steps[4].text.startswith("FGSM, ε = 8/255")
    right = [[letter == "1" for letter in row] for row in (RESIZE, CODEC)]
    assert found.steps[3].change == paired_difference(*right)


def test_seeds_are_pooled_and_only_those_that_every_step_has() -> None:
    cells = [*chain(seed=0), *chain(seed=1), *chain(seed=2)[:3]]
    found = only(*cells)
    assert found.seeds == (0, 1)
    assert found.total.num_seeds == 2
    assert found.total.difference == pytest.approx(-12 / NUMBER)


@pytest.mark.parametrize("missing", range(4))
def test_a_chain_with_a_step_missing_is_none(missing: int) -> None:
    cells = chain(seed=0)
    assert breakdowns(evidence(*cells[:missing], *cells[missing + 1 :])) == []


def test_without_an_attack_the_chain_ends_with_the_codec() -> None:
    found = only(*chain(seed=0)[:4])
    assert [step.kind for step in found.steps] == ["source", "decoder", "resize", "codec"]
    assert found.total.difference == pytest.approx(-4 / NUMBER)


def test_every_quality_and_attack_is_a_chain_of_its_own() -> None:
    keys = images(NUMBER)
    more = [
        cell(50, RESIZE, keys=keys, **LAST, seed=0),
        cell(10, RESIZE, ("pgd", "linf", 1 / 255, '{"steps":10}'), keys=keys, **LAST, seed=0),
    ]
    found = breakdowns(evidence(*chain(seed=0), *more))
    ends = [found_one.steps[-1].text for found_one in found]
    assert ends == ["FGSM, ε = 8/255", "PGD-10, ε = 1/255", "jpeg q50"]
    assert [len(found_one.steps) for found_one in found] == [5, 5, 4]


def test_images_of_their_own_size_have_no_step_of_resizing() -> None:
    keys = images(NUMBER)
    own = {"preprocessing": "none", "seed": 0}
    found = only(
        cell(None, SOURCE, keys=keys, decoder="cpu", **own),
        cell(None, DECODER, keys=keys, decoder="cpu-fast", **own),
        cell(10, CODEC, keys=keys, decoder="cpu-fast", **own),
    )
    assert [step.kind for step in found.steps] == ["source", "decoder", "codec"]
    shares = [step.share for step in found.steps[1:] if step.share is not None]
    assert not shares or sum(shares) == pytest.approx(1)


def test_no_share_of_a_loss_that_may_be_none() -> None:
    keys = images(NUMBER)
    cells = chain(seed=0)[:3]
    found = only(*cells, cell(10, DECODER, keys=keys, **LAST, seed=0))
    assert found.total.difference < 0 <= found.total.high
    assert [step.share for step in found.steps] == [None] * 4


def test_ordinary_cells_and_defended_ones_are_no_chain() -> None:
    keys = images(NUMBER)
    defended = {
        "defence_codec": "jpeg",
        "defence_quality": "10",
        "attack_settings": '{"defence":{"version":"1"}}',
    }
    ordinary = [cell(None, SOURCE, keys=keys, **USUAL), cell(10, CODEC, keys=keys, **USUAL)]
    assert breakdowns(evidence(*ordinary)) == []
    cells = chain(seed=0)
    made, table = cell(10, ATTACKED, keys=keys, **{**LAST, **defended}, seed=0)
    assert len(breakdowns(evidence(*cells[:3], (made, table)))) == 0


def test_the_table_has_a_row_per_step() -> None:
    found = only(*chain(seed=3))
    rows = breakdown_table([found]).to_pylist()
    assert [row["kind"] for row in rows] == [step.kind for step in found.steps]
    assert rows[0]["change_difference"] is None
    assert rows[3]["share"] == pytest.approx(5 / 12)
    assert rows[3]["change_low"] < rows[3]["change_difference"] < rows[3]["change_high"]
    assert {row["seeds"] for row in rows} == {"3"}
    assert breakdown_table([]).column_names == breakdown_table([found]).column_names


@pytest.mark.parametrize("preprocessing", [CROP, Preprocessing(), Preprocessing(resize="none")])
@pytest.mark.parametrize(
    "reading", [Reading(), Reading("fast"), Reading("fast", False), Reading("accurate", False)]
)
def test_what_conditions_say_of_a_reading_is_read_back(preprocessing: Preprocessing, reading: Reading) -> None:
    texts = reading.decoder_text("cpu"), reading.preprocessing_text(preprocessing)
    found = split_reading(*texts)
    resizes = preprocessing.resize != "none"
    assert found == (
        "cpu",
        preprocessing.describe(),
        Reading(reading.decoding, reading.antialias or not resizes),
    )
    if reading == Reading():
        assert texts == ("cpu", preprocessing.describe())
