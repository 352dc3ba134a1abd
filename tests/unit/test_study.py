"""Study files: every mistake is one line that names the entry and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limla.errors import LimlaError, SettingsError
from limla.plans import parse_number
from limla.study import read_study, study_from

_BASE: dict[str, Any] = {"data_dir": "shards/x", "output_dir": "out"}


def test_defaults_train_and_test_on_the_originals_and_every_quality() -> None:
    study = study_from({**_BASE, "qualities": [5, 50]}, "s.toml")
    assert [condition.qualities for condition in study.train_conditions()] == [(None,), (5,), (50,)]
    assert study.test_variants() == (("source", None), ("jpeg", 5), ("jpeg", 50))
    assert study.preprocessing().describe() == "shorter256-crop224"


def test_a_list_in_train_is_a_mix_and_eps_may_be_a_fraction() -> None:
    settings = {**_BASE, "train": ["source", [1, 10]], "evaluation": {"eps": ["8/255", 0.5], "alpha": "2/255"}}
    study = study_from(settings, "s.toml")
    assert [condition.qualities for condition in study.train_conditions()] == [(None,), (1, 10)]
    assert study.evaluation.eps == (8 / 255, 0.5)
    assert study.evaluation.alpha == 2 / 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qualitis": [1]}, "s.toml: unknown entry 'qualitis'; known: data_dir, output_dir"),
        ({"training": {"epoch": 1}}, "unknown entry 'training.epoch'; known: epochs"),
        ({"qualities": [0]}, "quality 0 is out of range: choose 1 to 100"),
        ({"qualities": []}, "must each name at least one"),
        ({"train": ["sorce"]}, "'train.0' is 'sorce': expected a quality"),
        ({"train": [7]}, "quality 7, which is not re-encoded; known: source, 1, 5"),
        (
            {"evaluation": {"attacks": ["pgf"]}},
            "unknown attack 'pgf'; known: none, ",
        ),
        ({"evaluation": {"eps": "8/0"}}, "'8/0' is not a number"),
        ({"training": {"epochs": "many"}}, "'training.epochs' is 'many'"),
        ({"codec": "jpg"}, "unknown codec 'jpg'; known: jpeg"),
        ({"loader": "dally"}, "unknown loader 'dally'"),
        ({"engine": "sprak"}, "unknown engine 'sprak'; known: local, spark. Did you mean 'spark'?"),
        ({"measure": "some"}, "'measure' is 'some': expected a number of images"),
        ({"image_size": 0}, "image size 0 is out of range"),
        ({"resize": "squash"}, "'resize' is 'squash'"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LimlaError) as caught:
        study_from({**_BASE, **change}, "s.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_entry_is_named() -> None:
    with pytest.raises(SettingsError, match="'output_dir' is missing"):
        study_from({"data_dir": "x"}, "s.toml")


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    text = 'data_dir = "shards/x"\noutput_dir = "/abs/out"\nraw = "photos"\ntraining.weights = "{}"\n'
    path.write_text(text.format("best.pt"), encoding="utf-8")
    study = read_study(path)
    (dataset,) = study.datasets
    assert dataset.data_dir == study.data_dir(dataset) == tmp_path / "shards/x"
    assert study.output_dir == Path("/abs/out")
    assert dataset.raw == tmp_path / "photos"
    assert study.training.weights == str(tmp_path / "best.pt")
    path.write_text(text.format("imagenet"), encoding="utf-8")
    assert read_study(path).training.weights == "imagenet"


@pytest.mark.parametrize("content", [b"data_dir = ", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="not valid TOML"):
        read_study(path)
    with pytest.raises(SettingsError, match="no such file"):
        read_study(tmp_path / "absent.toml")
    with pytest.raises(SettingsError, match="a folder"):
        read_study(tmp_path)


@pytest.mark.parametrize("text", ["nan", "inf", "x", "1/2/3", "8/0", ""])
def test_a_fraction_must_be_a_finite_number(text: str) -> None:
    with pytest.raises(SettingsError, match="not a number"):
        parse_number(text)
