"""Rate curves and their differences, where the answer is known from how the curves were made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from limla.analysis.encodings import DataFolder, Variant
from limla.analysis.pairs import Evidence
from limla.analysis.rate_curves import (
    CURVE_DIFFERENCE_SCHEMA,
    CURVE_SCHEMA,
    CurveDifference,
    curve_difference_table,
    curve_differences,
    curve_table,
    rate_curves,
)
from limla.paths import AnyPath
from limla.results import EncodingRow, encoding_table
from limla.statistics import proportion_interval
from tests.unit.cells import FGSM, Cell, cell, evidence, images

ACCURACIES = {5: 0.40, 10: 0.50, 50: 0.60, 90: 0.65}
RATES = {5: 0.25, 10: 0.5, 50: 1.0, 90: 2.0}
NUM_IMAGES = 400


def folder(path: AnyPath, **factors: float) -> dict[str, DataFolder]:
    """A data folder whose codecs take `RATES` times a factor, a fifth more on half of the images or less."""
    encodings: dict[Variant, pa.Table] = {("source", None): _encoding("source", None, 8.0)}
    for codec, factor in factors.items():
        encodings |= {
            (codec, quality): _encoding(codec, quality, factor * rate) for quality, rate in RATES.items()
        }
    return {"flowers": DataFolder(path, {}, encodings)}


def _encoding(codec: str, quality: int | None, rate_bpp: float) -> pa.Table:
    rows = [
        EncodingRow(f"test/{number}", split, codec, quality, 80, 100, round(1000 * rate), rate)
        for number in range(10)
        for split, rate in (("test", rate_bpp * (0.8 if number % 2 else 1.2)), ("train", 99.0))
    ]
    return encoding_table(rows)


def curve(codec: str = "jpeg", gain: float = 0.0, attack: tuple[Any, ...] = (), **changes: Any) -> list[Cell]:
    """Cells of one codec at every quality, accuracies `ACCURACIES` + `gain`."""
    found: list[Cell] = []
    for quality, accuracy in ACCURACIES.items():
        num_right = round(NUM_IMAGES * (accuracy + gain))
        right = ("1" * num_right).ljust(NUM_IMAGES, "0")
        made = cell(quality, right, *attack, keys=images(NUM_IMAGES), **changes)
        found.append((replace(made[0], test_codec=codec), made[1]))
    return found


def difference(found: Evidence) -> CurveDifference:
    """The one difference there is."""
    (row,) = curve_differences(found, num_resamples=200)
    return row


def test_points_of_a_curve(tmp_path: AnyPath) -> None:
    cells = [*curve(), cell(None, "1" * NUM_IMAGES, keys=images(NUM_IMAGES)), *curve(attack=(FGSM,), gain=-0.3)]
    clean, attacked = rate_curves(evidence(*cells, data=folder(tmp_path, jpeg=1.0)))
    assert [(point.quality, point.rate_bpp, point.value) for point in clean.points] == [
        (quality, pytest.approx(RATES[quality]), pytest.approx(ACCURACIES[quality])) for quality in RATES
    ]
    assert (clean.attack.label, attacked.attack.label) == ("no attack", "FGSM, ε = 8/255")
    assert attacked.points[0].value == pytest.approx(0.1)
    assert (clean.points[0].num_images, clean.points[0].num_seeds) == (NUM_IMAGES, 1)
    assert (clean.points[0].low, clean.points[0].high) == proportion_interval(160, NUM_IMAGES)


def test_of_several_codecs_each_is_compared_with_jpeg_where_it_is_there(tmp_path: AnyPath) -> None:
    data = folder(tmp_path, avif=0.5, jpeg=1.0, webp=0.8)
    made = [*curve("avif"), *curve("jpeg"), *curve("webp")]
    rows = curve_differences(evidence(*made, data=data), num_resamples=20)
    assert [(row.before.codec, row.after.codec) for row in rows] == [("jpeg", "avif"), ("jpeg", "webp")]
    assert [row.bd_rate_percent for row in rows] == [pytest.approx(-50, abs=0.01), pytest.approx(-20, abs=0.01)]
    rows = curve_differences(evidence(*curve("avif"), *curve("webp"), data=data), num_resamples=20)
    assert [(row.before.codec, row.after.codec) for row in rows] == [("avif", "webp")]


def test_a_codec_that_needs_a_fifth_fewer_bits_everywhere(tmp_path: AnyPath) -> None:
    found = evidence(*curve("jpeg"), *curve("webp"), data=folder(tmp_path, jpeg=1.0, webp=0.8))
    row = difference(found)
    assert (row.differing, row.before.codec, row.after.codec) == ("codec", "jpeg", "webp")
    assert row.bd_rate_percent == pytest.approx(-20, abs=0.01)
    assert row.bd_rate_low is not None
    assert row.bd_rate_high is not None
    # both codecs are right on the same images: in every resample the curves are one, shifted
    assert row.bd_rate_low == pytest.approx(-20, abs=0.01)
    assert row.bd_accuracy is not None
    assert row.bd_accuracy > 0
    assert row.overlap == pytest.approx(1)
    assert row.reason == ""


def test_a_model_that_is_a_tenth_better_everywhere(tmp_path: AnyPath) -> None:
    better = curve(gain=0.1, train_codec="jpeg", train_quality="10", checkpoint_id="q10")
    row = difference(evidence(*curve(), *better, data=folder(tmp_path, jpeg=1.0)))
    assert (row.differing, row.after.subject.train_quality) == ("training", "10")
    assert row.bd_accuracy == pytest.approx(0.1)
    assert row.bd_accuracy_low is not None
    assert row.bd_accuracy_high is not None
    # at each quality another 40 of the 400 images make the difference; the four count about 1, 2, 2 and 1 sixths of the
    # integral, and 20 images count at the last two: standard error √((0.1 · 10/36 + 2 · 0.05 · 2/36 − 0.1²) / 400)
    assert row.bd_accuracy_low == pytest.approx(0.1 - 1.96 * 0.0076, abs=0.006)
    assert row.bd_accuracy_high == pytest.approx(0.1 + 1.96 * 0.0076, abs=0.006)
    # accuracies 0.40 to 0.65 and 0.50 to 0.75 share 0.15 of 0.35
    assert row.bd_rate_percent is None
    assert row.reason == "no BD-rate: the curves share 43% of their scores, 50% are needed"


def test_curves_that_do_not_overlap_are_refused_with_the_reason(tmp_path: AnyPath) -> None:
    better = curve(gain=0.3, model="ResNet18", checkpoint_id="resnet")
    row = difference(evidence(*curve(), *better, data=folder(tmp_path, jpeg=1.0)))
    assert (row.differing, row.bd_rate_percent, row.bd_rate_low) == ("model", None, None)
    assert "no BD-rate: the curves share 0% of their scores" in row.reason
    assert row.bd_accuracy == pytest.approx(0.3)

    far = evidence(*curve("jpeg"), *curve("webp"), data=folder(tmp_path, jpeg=1.0, webp=20.0))
    row = difference(far)
    assert row.bd_accuracy is None
    assert "no BD-accuracy: the curves share 0% of their rates" in row.reason


def test_too_few_qualities_are_refused(tmp_path: AnyPath) -> None:
    short = [made for made in curve("webp") if made[0].test_quality != 10]
    row = difference(evidence(*curve(), *short, data=folder(tmp_path, jpeg=1.0, webp=0.8)))
    assert (row.bd_rate_percent, row.bd_accuracy) == (None, None)
    assert "3 points, 4 are needed" in row.reason


def test_a_curve_holds_the_checkpoints_of_all_its_qualities(tmp_path: AnyPath) -> None:
    several = [made for seed in (0, 1) for made in curve("jpeg", seed=seed)]
    some = [made for made in curve("webp", seed=2) if made[0].test_quality != 90]
    more = [*curve("webp", seed=0), *some]
    row = difference(evidence(*several, *more, data=folder(tmp_path, jpeg=1.0, webp=0.8)))
    assert (row.num_seeds, row.reason) == (1, "")
    apart = [curve("webp", seed=seed)[place] for place, seed in enumerate((0, 1, 0, 1))]
    row = difference(evidence(*several, *apart, data=folder(tmp_path, jpeg=1.0, webp=0.8)))
    assert (row.num_seeds, row.bd_rate_percent, row.bd_accuracy) == (0, None, None)
    assert row.reason == "no checkpoint was evaluated at every quality"


def test_two_codecs_are_compared_on_the_same_checkpoints_two_trainings_on_the_same_seeds(
    tmp_path: AnyPath,
) -> None:
    # the second seed is a far better model: with it on one side only the codecs, or trainings, would seem to differ
    both = [*curve("jpeg", seed=0), *curve("jpeg", seed=1, gain=0.2)]
    found = difference(evidence(*both, *curve("webp", seed=0), data=folder(tmp_path, jpeg=1.0, webp=1.0)))
    assert (found.bd_accuracy, found.num_seeds) == (pytest.approx(0), 1)
    trained = curve("jpeg", train_codec="jpeg", train_quality="10", seed=0, checkpoint_id="trained")
    found = difference(evidence(*both, *trained, data=folder(tmp_path, jpeg=1.0)))
    assert (found.differing, found.bd_accuracy, found.num_seeds) == ("training", pytest.approx(0), 1)


def test_what_is_compared(tmp_path: AnyPath) -> None:
    trained: dict[str, Any] = {"train_codec": "jpeg", "train_quality": "10", "checkpoint_id": "q10"}
    cells = [
        *curve(),
        *curve("webp"),
        *curve(attack=(FGSM,)),
        *curve(**trained),
        *curve(model="ResNet18", checkpoint_id="resnet"),
        *curve(train_quality="unknown", checkpoint_id="bought", seed=-1),
    ]
    rows = curve_differences(evidence(*cells, data=folder(tmp_path, jpeg=1.0, webp=0.8)), num_resamples=100)
    assert [(row.differing, row.before.codec, row.after.subject.label, row.after.codec) for row in rows] == [
        ("codec", "jpeg", "MobileNetV2 · originals", "webp"),
        ("training", "jpeg", "MobileNetV2 · jpeg q10", "jpeg"),
        ("model", "jpeg", "ResNet18 · originals", "jpeg"),
    ]


def test_simulated_and_defended_cells_and_unknown_rates_make_no_point(tmp_path: AnyPath) -> None:
    behind: dict[str, Any] = {
        "defence_codec": "jpeg",
        "defence_quality": "10",
        "attack_settings": '{"defence":{}}',
    }
    cells = [*curve(), *curve(gain=0.1, simulation="dali"), *curve(gain=0.1, **behind)]
    (found,) = rate_curves(evidence(*cells, data=folder(tmp_path, jpeg=1.0)))
    assert [point.value for point in found.points] == pytest.approx(list(ACCURACIES.values()))
    assert rate_curves(evidence(*cells)) == []
    assert curve_differences(evidence(*cells)) == []


def test_one_image_and_no_image_right(tmp_path: AnyPath) -> None:
    def alone(codec: str) -> list[Cell]:
        return [
            (replace(made, test_codec=codec), table)
            for made, table in (cell(quality, "0") for quality in RATES)
        ]

    found = evidence(*alone("jpeg"), *alone("webp"), data=folder(tmp_path, jpeg=1.0, webp=0.8))
    assert {point.num_images for curve in rate_curves(found) for point in curve.points} == {1}
    row = difference(found)
    assert (row.bd_rate_percent, row.bd_accuracy, row.bd_accuracy_low) == (None, 0, None)
    assert "no interval of the BD-accuracy: its resamples are all alike" in row.reason


def test_rows_as_tables(tmp_path: AnyPath) -> None:
    found = evidence(*curve("jpeg"), *curve("webp"), data=folder(tmp_path, jpeg=1.0, webp=0.8))
    points = curve_table(rate_curves(found))
    assert points.schema == CURVE_SCHEMA
    assert points.num_rows == 8
    line = points.to_pylist()[5]
    assert (line["codec"], line["quality"], line["value"]) == ("webp", 10, 0.5)
    assert math.isclose(line["rate_bpp"], 0.4)
    differences = curve_difference_table([difference(found)])
    assert differences.schema == CURVE_DIFFERENCE_SCHEMA
    (line,) = differences.to_pylist()
    assert (line["differing"], line["before_codec"], line["after_codec"]) == ("codec", "jpeg", "webp")
    assert line["bd_rate_percent"] == pytest.approx(-20, abs=0.01)
    assert curve_difference_table([]).schema == CURVE_DIFFERENCE_SCHEMA
