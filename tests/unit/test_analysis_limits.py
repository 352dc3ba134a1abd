"""The limit on images whose losses are written down.

Without any flip among n images Tango's interval is ±z² / (n + z²), z² = 3.8415: 0.95 points for n = 400, and 1.0008
points for n = 380, so that the first is within one point and the second cannot tell.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limla.analysis.comparisons import comparisons
from limla.analysis.encodings import DataFolder, read_data_folders
from limla.analysis.limits import LIMIT_SCHEMA, Limit, limit_table, limits, parse_points, sentence
from limla.codecs.base import QualityScale
from limla.errors import SettingsError
from limla.registry import CODECS
from tests.unit.cells import FGSM, Cell, cell, evidence, images
from tests.unit.reported import write_data


def made(quality: int | None, num_right: int, number: int = 400, **changes: Any) -> Cell:
    """A cell of `number` images of which the first `num_right` are right."""
    return cell(quality, ("1" * num_right).ljust(number, "0"), keys=images(number), **changes)


def limit_of(*cells: Cell, margin: float = 0.01, data: dict[str, DataFolder] | None = None) -> Limit:
    """The one limit of these cells."""
    (found,) = limits(evidence(*cells, data=data), margin)
    return found


def test_the_lowest_quality_within_the_margin_with_its_rate_and_the_bytes_saved(tmp_path: Path) -> None:
    data = read_data_folders([write_data(tmp_path)])
    found = limit_of(made(None, 300), made(50, 300), made(10, 260), made(1, 100), data=data)
    assert found.verdict == "found"
    assert found.limit is not None
    assert (found.limit.quality, found.limit.rate_bpp, found.limit.mean_num_bytes) == (50, 1.0, 1000)
    assert (found.source_rate_bpp, found.source_mean_num_bytes, found.source_accuracy) == (4.0, 4000, 0.75)
    assert found.saved == 0.75
    assert found.limit.result.high == pytest.approx(3.8415 / 403.8415, rel=1e-3)
    assert found.beyond is not None
    assert (found.beyond.quality, found.beyond.result.verdict) == (10, "exceeds")
    assert [loss.quality for loss in found.tested] == [50, 10, 1]
    text = sentence(found)
    assert text.startswith(
        "MobileNetV2 trained on the originals: store jpeg at quality 50 or better (1.00 bits per pixel, 75% smaller "
        "than the originals): it loses less than 1 point of its 75.0% accuracy on the originals (no change, 95% "
        "interval 0.95 gained to 0.95 lost, on 400 test images); quality 10 loses more (10.0 points lost, 95% interval "
    )
    assert text.endswith(").")


def test_every_better_quality_must_hold_as_well() -> None:
    found = limit_of(made(None, 300), made(90, 300), made(50, 200), made(10, 300))
    assert found.limit is not None
    assert found.limit.quality == 90
    assert found.beyond is not None
    assert found.beyond.quality == 50
    assert [loss.result.verdict for loss in found.tested] == ["within", "exceeds", "within"]


class Backwards:
    """A codec whose knob turns the other way, like the QP of a video codec."""

    scale = QualityScale("qp", 0, 51, higher_is_better=False)


def test_a_knob_that_turns_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS.plugs, "backwards", f"{__name__}:Backwards")
    cells = [made(None, 300), *(made(quality, right) for quality, right in ((10, 300), (20, 300), (30, 100)))]
    cells = [
        (replace(cell, test_codec="backwards") if cell.test_quality else cell, rows) for cell, rows in cells
    ]
    found = limit_of(*cells)
    assert [loss.quality for loss in found.tested] == [10, 20, 30]
    assert found.limit is not None
    assert found.limit.quality == 20
    assert found.beyond is not None
    assert found.beyond.quality == 30
    # without the originals the best quality is the lowest number
    assert [row.change for row in comparisons(evidence(*cells[1:]))] == [
        "backwards q10 → backwards q30",
        "backwards q10 → backwards q20",
    ]


def test_when_every_tested_quality_holds_there_is_nothing_beyond() -> None:
    found = limit_of(made(None, 300), made(90, 300), made(5, 300))
    assert (found.verdict, found.limit and found.limit.quality, found.beyond) == ("found", 5, None)
    assert sentence(found).endswith("; no lower quality was tested.")


def test_too_few_images_cannot_tell_and_say_how_many_could() -> None:
    found = limit_of(made(None, 300, 380), made(90, 300, 380))
    assert (found.verdict, found.limit) == ("cannot tell", None)
    assert found.beyond is not None
    # 80% power: (1.960 + 0.842)² · 0.01 · 0.99 / 0.01², with the normal for Student's t
    assert found.beyond.result.images_needed == pytest.approx(777, rel=0.02)
    assert re.fullmatch(
        "MobileNetV2 trained on the originals: whether any tested quality of jpeg loses less than 1 point of its 78.9% "
        "accuracy on the originals cannot be told with 380 test images: at the best tested, quality 90, the model "
        r"shows no change, 95% interval 1.0 gained to 1.0 lost; you need about 7[89]0 images\.",
        sentence(found),
    )


def test_a_quality_that_cannot_be_told_ends_the_search() -> None:
    found = limit_of(made(None, 300), made(90, 300), made(50, 297), made(10, 300))
    assert found.limit is not None
    assert found.limit.quality == 90
    assert found.beyond is not None
    assert (found.beyond.quality, found.beyond.result.verdict) == (50, "cannot tell")
    assert "for quality 50 they cannot tell: you need about" in sentence(found)


def test_more_images_would_show_that_a_loss_beyond_the_margin_is_more() -> None:
    found = limit_of(made(None, 300), made(90, 295))
    assert found.verdict == "cannot tell"
    # (1.960 + 0.842)² · 0.0125 · 0.9875 / 0.0025² images
    assert sentence(found).endswith("0.3 to 2.9; about 16,000 images would likely show that it loses more.")
    beyond = limit_of(made(None, 300), made(90, 300), made(50, 295))
    assert "for quality 50 they cannot tell: about 16,000 images would likely show that it loses" in sentence(
        beyond
    )


def test_a_loss_of_the_margin_itself_is_not_cured_by_more_images() -> None:
    found = limit_of(made(None, 300), made(90, 296))
    assert "more images would hardly help, as the loss measured is the margin itself" in sentence(found)


def test_no_quality_holds() -> None:
    found = limit_of(made(None, 300), made(90, 100), made(50, 300))
    assert (found.verdict, found.limit, found.saved) == ("exceeds", None, None)
    assert "the best tested quality, 90, does not lose less than 1 point" in sentence(found)
    assert "but more (50.0 points lost, 95% interval " in sentence(found)


def test_without_the_originals_there_is_no_advice() -> None:
    for cells in ([made(90, 300)], [made(90, 300, seed=1), made(None, 300, seed=2)]):
        found = limit_of(*cells)
        assert (found.verdict, found.limit, found.tested) == ("no originals", None, ())
        assert "no advice on jpeg" in sentence(found)
        assert limit_table([found]).to_pylist()[0]["num_images"] is None


def test_the_margin_decides() -> None:
    cells = [made(None, 300), made(50, 300), made(10, 260)]
    assert limit_of(*cells, margin=0.15).verdict == "found"
    wide = limit_of(*cells, margin=0.15).limit
    assert wide is not None
    assert wide.quality == 10
    assert limit_of(*cells, margin=0.005).verdict == "cannot tell"
    assert "loses less than 0.5 points" in sentence(limit_of(*cells, margin=0.005))
    for margin in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingsError, match="choose above 0"):
            limits(evidence(*cells), margin)


def test_attacks_defences_and_simulations_are_not_mixed_in() -> None:
    plain = [made(None, 300), made(50, 300)]
    behind: dict[str, Any] = {
        "defence_codec": "jpeg",
        "defence_quality": "10",
        "attack_settings": '{"defence":{}}',
    }
    more = [
        made(10, 300, simulation="cpu"),
        made(None, 10, simulation="cpu"),
        made(50, 10, **behind),
        made(5, 300, **behind),
        cell(50, "0" * 400, FGSM, keys=images(400)),
        cell(1, "1" * 400, FGSM, keys=images(400)),
    ]
    assert limits(evidence(*plain, *more)) == limits(evidence(*plain))


def test_seeds_are_pooled_and_subjects_apart() -> None:
    cells = [made(quality, 300, seed=seed) for quality in (None, 50) for seed in (0, 1, 2)]
    other = [made(quality, 300, model="ResNet18", checkpoint_id="resnet") for quality in (None, 50)]
    first, second = limits(evidence(*cells, *other))
    assert first.limit is not None
    assert first.limit.result.comparison.num_seeds == 3
    assert "on 400 test images × 3 seeds" in sentence(first)
    assert sentence(second).startswith("ResNet18 trained on the originals: ")


def test_one_image() -> None:
    found = limit_of(cell(None, "1"), cell(50, "1"))
    assert found.verdict == "cannot tell"
    assert "cannot be told with 1 test image:" in sentence(found)


def test_a_model_of_unknown_training_is_named_without_it() -> None:
    found = limit_of(*(made(quality, 300, train_quality="unknown", seed=-1) for quality in (None, 50)))
    assert sentence(found).startswith("MobileNetV2: store jpeg at quality 50")


def test_limits_as_a_table(tmp_path: Path) -> None:
    data = read_data_folders([write_data(tmp_path)])
    found = limit_of(made(None, 300), made(50, 300), made(10, 260), data=data)
    table = limit_table([found])
    assert table.schema == LIMIT_SCHEMA
    (line,) = table.to_pylist()
    expected = {
        "subject": "MobileNetV2 · originals",
        "codec": "jpeg",
        "margin": 0.01,
        "verdict": "found",
        "quality": 50,
        "rate_bpp": 1.0,
        "mean_num_bytes": 1000.0,
        "source_rate_bpp": 4.0,
        "saved": 0.75,
        "loss": 0.0,
        "num_images": 400,
        "num_seeds": 1,
        "beyond_quality": 10,
        "beyond_verdict": "exceeds",
        "images_needed": None,
        "sentence": sentence(found),
    }
    assert {name: line[name] for name in expected} == expected
    assert limit_table([]).schema == LIMIT_SCHEMA


@pytest.mark.parametrize(("text", "share"), [("1", 0.01), ("0.5", 0.005), (" 2 ", 0.02), ("1e-1", 0.001)])
def test_margins_are_written_in_points(text: str, share: float) -> None:
    assert parse_points(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "-1", "100", "1%", "", "nan", "inf", "one"])
def test_nonsense_margins_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="choose above 0 and below 100"):
        parse_points(text)


def test_the_accuracy_told_is_that_of_the_runs_compared() -> None:
    names = images(20)
    cells = [cell(None, "1" * 20, keys=names, seed=0), cell(None, "0" * 20, keys=names, seed=1)]
    (found,) = limits(evidence(*cells, cell(10, "0" * 20, keys=names, seed=1)))
    assert found.beyond is not None
    assert found.beyond.result.comparison.num_seeds == 1
    assert found.source_accuracy == 0.0  # the other seed was not evaluated at q10
    assert "of its 0.0% accuracy on the originals" in sentence(found)


def test_nothing_is_said_of_all_qualities_that_only_the_best_carries() -> None:
    """A model trained on a low quality can be better there than on the originals."""
    names = images(400)
    source, low = cell(None, "1" * 300 + "0" * 100, keys=names), cell(10, "1" * 400, keys=names)
    (worse,) = limits(evidence(source, cell(50, "1" * 200 + "0" * 200, keys=names), low))
    assert (worse.verdict, worse.tested[1].result.verdict) == ("exceeds", "within")
    assert "the best tested quality, 50, does not lose less than 1 point" in sentence(worse)
    assert "no tested quality" not in sentence(worse)
    (unclear,) = limits(evidence(source, cell(50, "1" * 297 + "0" * 103, keys=names), low))
    assert unclear.verdict == "cannot tell"
    assert "whether the best tested quality of jpeg, 50, loses less than 1 point" in sentence(unclear)
    assert sentence(unclear).endswith("; lower ones are then not judged.")
    (bad,) = limits(evidence(source, *(cell(quality, "0" * 400, keys=names) for quality in (10, 50))))
    assert "no tested quality of jpeg loses less than 1 point" in sentence(bad)
