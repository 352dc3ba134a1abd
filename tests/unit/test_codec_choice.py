"""A codec's text: name, knobs, label; and the twin of every codec whose quality is a rate."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from limla.codecs import build_codec, codec_label, codec_name, codec_scale
from limla.codecs.base import QualityScale, encode_each
from limla.codecs.matching import nearest_quality
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.metrics import rate_bpp
from limla.study import study_from
from tests.catalogue import KNOBS, codec_text
from tests.conftest import natural_like


def test_a_text_names_a_codec_and_its_knobs() -> None:
    assert build_codec("jpeg").settings()["subsampling"] == "420"
    assert build_codec("jpeg:subsampling=444").settings()["subsampling"] == "444"
    assert build_codec("jpeg: subsampling = 444 ").settings()["subsampling"] == "444"
    assert build_codec("jpeg:subsampling=444", subsampling="444").settings()["subsampling"] == "444"
    assert codec_name("jpeg:subsampling=444") == "jpeg"
    assert codec_name("jpeg-bpp:subsampling=444") == "jpeg-bpp"


def test_a_label_holds_what_is_not_the_codecs_own_choice() -> None:
    assert codec_label("jpeg") == codec_label("jpeg:subsampling=420") == "jpeg"
    assert codec_label("jpeg:subsampling=444") == "jpeg:subsampling=444"
    assert codec_label("jpeg-bpp:subsampling=444") == "jpeg-bpp:subsampling=444"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "jpeg:subsampling",
            "codec 'jpeg:subsampling': 'subsampling' is not knob=value; write jpeg:subsampling=444",
        ),
        ("jpeg:subsampling=", "is not knob=value"),
        ("jpeg:subsampling=444,subsampling=420", "subsampling is given twice"),
        ("jpeg:effort=4", "codec 'jpeg' has no setting 'effort'; known: subsampling"),
        ("jpeg:subsampling=411", "unknown chroma subsampling '411'; known: 420, 422, 444"),
    ],
)
def test_a_text_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_codec(text)


def test_a_knob_asked_for_twice_must_be_one() -> None:
    with pytest.raises(SettingsError, match="subsampling is 444 there, and 420 was asked for too"):
        build_codec("jpeg:subsampling=444", subsampling="420")


@pytest.mark.parametrize("text", ["jepg", "jepg:subsampling=444", "jepg-bpp", "-bpp", ""])
def test_an_unknown_name_is_named(text: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown codec"):
        build_codec(text)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_nearest_quality_is_found(higher_is_better: bool) -> None:
    scale = QualityScale("q", 3, 77, higher_is_better)
    rates = {quality: 0.1 * 1.07**place for place, quality in enumerate(scale.from_worst())}
    tried: list[int] = []

    def rate_of(quality: int) -> float:
        tried.append(quality)
        return rates[quality]

    for target in (0.0, 0.1, 0.104, 0.25, 1.0, 5.0, 100.0):
        tried.clear()
        found = nearest_quality(scale, rate_of, target)
        assert abs(rates[found] - target) == min(abs(rate - target) for rate in rates.values())
        assert len(tried) == len(set(tried)) <= 7


def test_of_two_as_near_the_worse_is_taken() -> None:
    assert nearest_quality(QualityScale("q", 1, 2), lambda quality: float(quality), 1.5) == 1
    assert nearest_quality(QualityScale("q", 1, 2, higher_is_better=False), lambda q: 3.0 - q, 1.5) == 2


def test_the_twin_at_a_rate_makes_the_codecs_files() -> None:
    twin, jpeg = build_codec("jpeg-bpp"), build_codec("jpeg")
    assert (twin.name, twin.extension) == ("jpeg-bpp", "jpg")
    image = natural_like(96, 128, seed=3)
    files = {quality: jpeg.encode(image, quality) for quality in range(1, 101)}
    for target in (1, 250, 700, 2000, 24000):
        data = twin.encode(image, target)
        assert data in files.values()
        distance = abs(rate_bpp(len(data), 96, 128) - target / 1000)
        assert distance == min(abs(rate_bpp(len(each), 96, 128) - target / 1000) for each in files.values())
        assert np.array_equal(twin.decode(data), jpeg.decode(data))
    assert encode_each(twin, image, [250, 700]) == [twin.encode(image, 250), twin.encode(image, 700)]
    assert pickle.loads(pickle.dumps(twin)).encode(image, 250) == twin.encode(image, 250)
    with pytest.raises(SettingsError, match="choose 1 to 24000"):
        twin.encode(image, 0)


def test_the_scale_of_a_text() -> None:
    assert codec_scale("jpeg:subsampling=444").highest == 100
    assert codec_scale("jpeg-bpp").highest == 24000


def test_a_value_may_hold_a_comma_and_a_colon(tmp_path: Path) -> None:
    weights = tmp_path / "of me, and: you.bin"
    weights.write_bytes(Path(KNOBS["autoencoder"]["weights"]).read_bytes())
    assert codec_label(f"autoencoder:weights={weights}") == codec_label(codec_text("autoencoder"))


def test_a_label_follows_the_file_of_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(Path(KNOBS["autoencoder"]["weights"]).read_bytes())
    assert codec_label(f"autoencoder:weights={weights}") == codec_label(codec_text("autoencoder"))
    weights.write_bytes(b"something else")
    with pytest.raises(DataError):
        codec_label(f"autoencoder:weights={weights}")


def test_one_defence_under_two_names_is_one() -> None:
    evaluation = {
        "attacks": ["fgsm"],
        "defences": [
            {"codec": "jpeg", "qualities": [50], "threats": ["static"]},
            {"codec": "jpeg:subsampling=420", "qualities": [50], "threats": ["bpda"]},
        ],
    }
    study = study_from({"data_dir": "x", "output_dir": "y", "evaluation": evaluation}, "options")
    assert [(plan.label, plan.threats) for plan in study.evaluation.defences] == [
        ("jpeg:50", ("static", "bpda"))
    ]
