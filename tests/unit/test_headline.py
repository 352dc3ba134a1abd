"""The sentences of the headline on points made by hand: each interval is above, below, or overlaps."""

from __future__ import annotations

import pytest

from limla.analysis.encodings import Variant
from limla.analysis.subjects import Attack, Subject
from limla.reporting.headline import headline
from limla.reporting.sections import Point, Section

SUBJECT = Subject("net", "source", "source", "p", "cpu", "", "net · originals", (("c0", 0),))
CLEAN = Attack("none", "", 0.0, "", "no attack")
FGSM = Attack("fgsm", "linf", 0.03, "{}", "FGSM, ε = 0.03")
HALF = (0.50, 0.45, 0.55)
HIGH, SAME, LOW = (0.90, 0.87, 0.93), (0.53, 0.48, 0.58), (0.10, 0.07, 0.13)


def said(attack: Attack, **points: tuple[float, float, float]) -> str:
    """The headline of one model whose (value, low, high) under `attack` are given by quality, "q10" or "source"."""
    found: dict[Variant, Point] = {}
    for name, (value, low, high) in points.items():
        codec, _, quality = name.rpartition("q")
        variant = ("source", None) if name == "source" else (codec or "jpeg", int(quality))
        found[variant] = Point(value, low, high, 400, 1)
    metric = "accuracy" if attack.is_none else "robust_accuracy"
    section = Section(
        dataset="set",
        split="test",
        subjects=[SUBJECT],
        variants=list(found),
        attacks=[attack],
        conditions=[],
        cells={},
        points={((SUBJECT, variant, attack), metric): point for variant, point in found.items()},
    )
    return " ".join(headline(section))


def test_an_interval_above_does_not_overlap() -> None:
    text = said(CLEAN, q10=HIGH, q90=SAME, source=HALF)
    assert "Against the originals, the interval overlaps at q90, lies above at q10." in text
    assert "At q10 (90.0% [87.0, 93.0]) it is" not in text
    assert "At q10 it is 90.0% [87.0, 93.0]." in text
    assert "every tested quality" not in text


def test_several_codecs_are_summed_up() -> None:
    text = said(CLEAN, hevcq50=SAME, hevcq20=HALF, q10=SAME, q90=HALF, source=HALF)
    assert (
        "overlaps with that at every one of 4 tested qualities of 2 codecs; the least is hevc q20 (50.0%"
        in text
    )
    text = said(CLEAN, hevcq50=LOW, hevcq20=HALF, q10=SAME, q90=HALF, source=HALF)
    assert (
        "lies below that at 1 of 4 tested qualities of 2 codecs; the least is hevc q50 (10.0% [7.0, 13.0])."
        in text
    )


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (
            {"q10": SAME, "q50": SAME},
            "Its interval overlaps with that at every tested quality, down to q10 (53.0% [48.0, 58.0]).",
        ),
        (
            {"q10": LOW, "q50": SAME, "q90": SAME},
            "Down to q50 (53.0% [48.0, 58.0]) its interval overlaps with that; at q10 (10.0% [7.0, 13.0]) it lies "
            "below.",
        ),
        (
            {"q10": LOW, "q50": LOW, "q90": SAME},
            "at q50 (10.0% [7.0, 13.0]) it lies below, as at every lower tested quality. At q10 it is 10.0%",
        ),
        ({"q10": LOW}, "Already at q10 (10.0% [7.0, 13.0]) its interval lies below that."),
        # not monotone: a fall that recovers, one that began with a rise, a rise alone
        (
            {"q1": LOW, "q10": SAME, "q50": LOW, "q90": SAME},
            "the interval overlaps at q90 and q10, lies below at q50 and q1. At q1 it is 10.0%",
        ),
        (
            {"q1": LOW, "q10": SAME, "q50": SAME, "q90": HIGH},
            "the interval overlaps at q50 and q10, lies above at q90, lies below at q1.",
        ),
        ({"q10": SAME, "q50": LOW}, "the interval overlaps at q10, lies below at q50."),
        ({"q10": HIGH, "q50": HIGH}, "the interval lies above at every other tested quality."),
    ],
)
def test_accuracy(points: dict[str, tuple[float, float, float]], expected: str) -> None:
    assert expected in said(CLEAN, **points, source=HALF)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (
            {"q10": HIGH},
            "leaves 50.0% [45.0, 55.0] correct on the originals, and most at q10: 90.0% [87.0, 93.0], an interval "
            "above that.",
        ),
        (
            {"q1": LOW, "q10": HIGH, "q50": SAME},
            "and most at q10: 90.0% [87.0, 93.0], an interval above that. Against the originals, the interval "
            "overlaps at q50, lies above at q10, lies below at q1.",
        ),
        (
            {"q1": LOW, "q50": SAME},
            "originals. Against the originals, the interval overlaps at q50, lies below at q1.",
        ),
        ({"q1": LOW, "q50": LOW}, "the interval lies below at every other tested quality."),
        ({"q1": SAME, "q50": SAME}, "the interval overlaps at every other tested quality."),
    ],
)
def test_under_attack(points: dict[str, tuple[float, float, float]], expected: str) -> None:
    assert expected in said(FGSM, **points, source=HALF)


def test_without_the_originals_the_best_quality_is_named() -> None:
    text = said(FGSM, q1=HIGH, q10=SAME, q50=HALF)
    assert "Against q50, the interval overlaps at q10, lies above at q1." in text


def test_two_models_that_limla_did_not_train_are_each_told() -> None:
    subjects = [
        Subject(
            "net", "unknown", "unknown", "p", "cpu", name, f"net · unknown training · {name}", ((name, -1),)
        )
        for name in ("c1", "c2")
    ]
    points = {
        ((subject, ("source", None), CLEAN), "accuracy"): Point(value, low, high, 400, 1)
        for subject, (value, low, high) in zip(subjects, (HIGH, LOW), strict=True)
    }
    section = Section("set", "test", subjects, [("source", None)], [CLEAN], [], {}, points)
    text = " ".join(headline(section))
    assert "net · c1 is right on 90.0% [87.0, 93.0]" in text
    assert "net · c2 is right on 10.0% [7.0, 13.0]" in text


def test_a_sentence_begins_with_a_capital() -> None:
    noise = Attack("uniform-noise", "linf", 0.03, "{}", "uniform noise, ε = 0.03")
    assert "Uniform noise, ε = 0.03, leaves 50.0%" in said(noise, source=HALF)
