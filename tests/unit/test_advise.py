"""`limla advise`: sentences, files and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cells import FGSM, cell, images, write_cell
from tests.unit.photos import type_in
from tests.unit.reported import read_csv, write_data

NUMBER = 400


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A model that is right on 300 of 400 images, loses none at quality 50, and 40 at quality 10; an attack besides."""
    folder = tmp_path / "results"
    for quality, num_right, attack in ((None, 300, ()), (50, 300, ()), (10, 260, ()), (50, 4, (FGSM,))):
        store(folder, quality, num_right, *attack)
    return folder


def store(
    folder: Path, quality: int | None, num_right: int, *attack: tuple[str, str, float, str], **changes: str
) -> None:
    """Write a cell of 400 images of which the first are right."""
    right, keys = ("1" * num_right).ljust(NUMBER, "0"), images(NUMBER)
    write_cell(folder, right, cell(quality, right, *attack, keys=keys, **changes), keys)


def test_one_sentence_per_model_and_codec(results: Path, tmp_path: Path) -> None:
    store(results, 50, 200, model="ResNet18", checkpoint_id="resnet")
    done = type_in("advise", results, "--data-dir", write_data(tmp_path / "data"))
    assert done.exit_code == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(
        "MobileNetV2 trained on the originals: store jpeg at quality 50 or better (1.00 bits per pixel, 75% smaller "
        "than the originals): it loses less than 1 point of its 75.0% accuracy"
    )
    assert second.startswith(
        "ResNet18 trained on the originals: no advice on jpeg, as the originals were not evaluated"
    )
    assert done.stderr == ""


def test_one_codec_alone(results: Path) -> None:
    store(results, 30, 290, test_codec="webp")
    assert "webp" in type_in("advise", results).stdout
    only = type_in("advise", results, "--codec", "webp")
    assert only.exit_code == 0, only.stderr
    assert "webp" in only.stdout
    assert "jpeg" not in only.stdout
    unknown = type_in("advise", results, "--codec", "avif")
    assert unknown.exit_code == 2
    assert "holds nothing about codec 'avif': choose jpeg or webp" in " ".join(unknown.stderr.split())


def test_the_margin_is_in_points(results: Path) -> None:
    done = type_in("advise", results, "--margin", "15")
    assert done.exit_code == 0
    assert "store jpeg at quality 10 or better: it loses less than 15 points" in done.stdout
    assert done.stderr == "note: bits per pixel of 'flowers' are not known: give its folder as --data-dir\n"
    done = type_in("advise", results, "--margin", "0.5")
    assert "whether any tested quality of jpeg loses less than 0.5 points" in done.stdout


def test_data_of_another_dataset_give_no_rates(results: Path, tmp_path: Path) -> None:
    done = type_in("advise", results, "--data-dir", write_data(tmp_path / "data", "animals"))
    assert done.exit_code == 0
    assert "bits per pixel," not in done.stdout
    assert done.stderr == "note: bits per pixel of 'flowers' are not known: no --data-dir holds that dataset\n"


def test_a_reader_who_has_gone_is_no_error(results: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "limla", "advise", str(results)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 1
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("margin", ["0", "-1", "100", "one", "8/255", "nan"])
def test_a_nonsense_margin_is_one_line_and_exit_code_2(results: Path, margin: str) -> None:
    done = type_in("advise", results, "--margin", margin)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"Error: margin '{margin}' is not a number of percentage points: choose above 0 and below 100, for example 1 "
        "or 0.5\n"
    )


def test_splits(results: Path) -> None:
    for quality in (None, 50):
        store(results, quality, 100, split="val")
    both = type_in("advise", results).stdout.splitlines()
    assert [line.split(": ")[0] for line in both] == ["flowers, test", "flowers, val"]
    (one,) = type_in("advise", results, "--split", "val").stdout.splitlines()
    assert one.startswith("MobileNetV2 trained on the originals: store jpeg at quality 50")
    assert "on 400 val images" in one
    done = type_in("advise", results, "--split", "train")
    assert done.exit_code == 2
    assert done.stderr == f"Error: {results} holds nothing about split 'train': choose test or val\n"


def test_csv_and_json(results: Path, tmp_path: Path) -> None:
    csv_path, json_path = tmp_path / "advice.csv", tmp_path / "advice.json"
    data = write_data(tmp_path / "data")
    done = type_in("advise", results, "--data-dir", data, "--csv", csv_path, "--json", json_path)
    assert done.exit_code == 0, done.stderr
    (line,) = read_csv(csv_path)
    (record,) = json.loads(json_path.read_text(encoding="utf-8"))
    assert line["sentence"] == record["sentence"] == done.stdout.rstrip("\n")
    assert (record["quality"], record["rate_bpp"], record["saved"], record["margin"]) == (50, 1.0, 0.75, 0.01)
    assert (line["quality"], line["beyond_quality"], line["images_needed"]) == ("50", "10", "")
    assert record["images_needed"] is None


def test_only_attacked_or_simulated_cells_leave_nothing_to_advise_on(tmp_path: Path) -> None:
    attacked, simulated = tmp_path / "attacked", tmp_path / "simulated"
    for quality in (None, 50):
        store(attacked, quality, 300, FGSM)
        store(simulated, quality, 300, simulation="dali")
    for folder in (attacked, simulated):
        done = type_in("advise", folder)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "nothing to advise on" in done.stderr
    # a folder without any real cell has no splits to choose from
    assert "nothing to advise on" in type_in("advise", simulated, "--split", "test").stderr
    done = type_in("advise", tmp_path / "empty")
    assert done.exit_code == 2
    assert "no prediction files" in done.stderr


def test_cells_of_other_images_are_named(results: Path) -> None:
    made = cell(1, "1111")
    write_cell(results, "1111", made)
    done = type_in("advise", results)
    assert done.exit_code == 2
    assert made[0].cell_id in done.stderr
    assert "different images" in done.stderr
    assert len(done.stderr.splitlines()) == 1
