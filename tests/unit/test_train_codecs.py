"""Training and evaluating on other codecs' shards from the command line: scales, names, what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from limla.reencoding import ReencodeSettings, reencode
from tests.unit.photos import type_in
from tests.variants import member, write_variant


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small images of two classes, also as JPEG 2000 and at a rate."""
    folder = tmp_path_factory.mktemp("codecs") / "my data"
    splits = {
        split: [[member(number, 40, 48) for number in range(first, first + 4)]]
        for split, first in (("train", 0), ("val", 4), ("test", 8))
    }
    write_variant(folder / "source", splits)
    reencode(folder, ReencodeSettings(codec="jpeg2000", qualities=(300,)))
    reencode(folder, ReencodeSettings(codec="webp-bpp", qualities=(3000,)))
    return folder


@pytest.mark.parametrize(("codec", "quality"), [("jpeg2000", "300"), ("webp-bpp", "3000")])
def test_a_model_is_trained_and_tested_on_the_codec_that_is_named(
    data_dir: Path, tmp_path: Path, codec: str, quality: str
) -> None:
    done = type_in(
        *("train", "--data-dir", data_dir, "--codec", codec, "--quality", quality, "--model", "compact"),
        *("--image-size", 32, "--epochs", 1, "--output-dir", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    next_line = next(line for line in done.stdout.splitlines() if line.startswith("next: limla "))
    words = shlex.split(next_line.removeprefix("next: limla "))
    done = type_in(*words)
    assert done.exit_code == 0, done.output
    assert f"compact ({codec} {quality})" in done.stdout
    assert f"{codec} {quality}" in done.stdout


def test_a_quality_off_the_codecs_scale_is_refused_with_it(data_dir: Path, tmp_path: Path) -> None:
    for codec, quality, message in (
        ("jpeg2000", "50", "choose 160 to 500"),
        ("webp", "101", "choose 0 to 100"),
        ("hevc", "0-60:10", "choose 0 to 51"),
        ("webq", "0", "unknown codec 'webq'"),
    ):
        done = type_in(
            *("train", "--data-dir", data_dir, "--codec", codec, "--quality", quality, "--output-dir", tmp_path)
        )
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())


def test_images_that_miss_the_rate_are_counted(data_dir: Path) -> None:
    done = type_in("reencode", data_dir, "--codec", "jpeg", "--bpp", "0.01", "--match", "image")
    assert done.exit_code == 0, done.output
    assert "warning: jpeg-bpp-q10: 12 of 12 images are more than a tenth away from 0.01 bits" in " ".join(
        done.stderr.split()
    )


def test_a_defences_settings_are_no_part_of_the_attacks_name(data_dir: Path, tmp_path: Path) -> None:
    done = type_in(
        *("train", "--data-dir", data_dir, "--model", "compact", "--image-size", 32, "--epochs", 1),
        *("--quality", "source", "--output-dir", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    done = type_in(
        *(
            "evaluate",
            "--checkpoint",
            tmp_path / "out" / "best.pt",
            "--data-dir",
            data_dir,
            "--quality",
            "source",
        ),
        *("--attack", "fgsm", "--eps", "2/255", "--defence", "webp:50", "--output-dir", tmp_path / "results"),
    )
    assert done.exit_code == 0, done.output
    assert "FGSM, ε = 2/255  " in done.stdout
    assert "{" not in done.stdout
