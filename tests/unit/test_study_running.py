"""A study's cells are found by what decides them: nothing is computed twice, a change computes what depends on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from limla.cli.study import study as study_command
from limla.results import PREDICTIONS
from limla.running import StudyStatus, run, study_status
from limla.running.walk import write_study_report
from limla.study import read_study

_STUDY = """\
output_dir = "out"
models = ["compact"]
seeds = [0, 1]
image_size = 32
measure = "none"
device = "cpu"
loader = "cpu"
[[datasets]]
raw = "{photos}"
[[codecs]]
qualities = [5, 50]
[split]
train = 0.5
val = 0.25
test = 0.25
[training]
epochs = {epochs}
batch_size = 4
[[train]]
on = "source"
[[train]]
on = 5
epochs = 1
[evaluation]
batch_size = 4
eps = "{eps}"
attacked = ["source", 50]
attacks = ["fgsm", {{ name = "uniform-noise", eps = "4/255", undefended_only = true }}]
[[evaluation.defences]]
qualities = [5]
threats = ["static", "bpda"]
"""
_CELLS = 2 * 2 * (3 + 2 * 2 + 3)
"""Seeds × conditions × (three variants clean, two with fgsm and noise; behind the codec none, fgsm static, bpda)."""


def write_study(folder: Path, photos: Path, epochs: int = 1, eps: str = "2/255") -> Path:
    path = folder / "study.toml"
    path.write_text(_STUDY.format(photos=photos, epochs=epochs, eps=eps), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out/results" / PREDICTIONS).glob("*.parquet")}


def status_of(path: Path) -> StudyStatus:
    return study_status(read_study(path))


def test_a_change_computes_only_what_depends_on_it(photo_folder: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path, photo_folder)
    before = status_of(path)
    assert (before.variants.done, before.variants.total) == (0, 3)
    assert (before.models.done, before.models.total) == (0, 4)
    assert (before.cells.done, before.cells.total) == (0, _CELLS)
    assert before.seconds_left is None

    run(read_study(path))
    rows = contents(tmp_path)
    assert len(rows) == _CELLS
    done = status_of(path)
    assert (done.variants.num_left, done.models.num_left, done.cells.num_left) == (0, 0, 0)
    assert done.seconds_left == 0

    times = {item: item.stat().st_mtime_ns for item in (tmp_path / "out/results" / PREDICTIONS).iterdir()}
    run(read_study(path))
    assert all(item.stat().st_mtime_ns == written for item, written in times.items())

    # another eps: new cells of fgsm, the models and every other cell stay
    other_eps = status_of(write_study(tmp_path, photo_folder, eps="3/255"))
    assert other_eps.models.num_left == 0
    assert other_eps.cells.num_left == 4 * (2 + 2)
    assert other_eps.cells.seconds_left is not None

    # more epochs for the first training condition: its models and their cells, the other's stay
    longer = status_of(write_study(tmp_path, photo_folder, epochs=2))
    assert (longer.variants.num_left, longer.models.num_left) == (0, 2)
    assert longer.cells.num_left == _CELLS // 2
    assert longer.models.seconds_left is not None
    assert longer.models.seconds_left > 0

    # another name for a training condition: its models are found
    named = path.read_text(encoding="utf-8").replace("on = 5\nepochs", 'on = 5\nname = "coarse"\nepochs')
    path.write_text(named.replace("epochs = 2", "epochs = 1"), encoding="utf-8")
    assert 'name = "coarse"' in named
    assert status_of(path).models.num_left == 0

    # another split: other photos to train on, in shards of their own
    split = (
        path.read_text(encoding="utf-8")
        .replace("train = 0.5", "train = 0.6")
        .replace("val = 0.25", "val = 0.15")
    )
    path.write_text(split, encoding="utf-8")
    assert status_of(path).variants.done == 0


def test_status_and_report_on_the_command_line(photo_folder: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path, photo_folder)
    runner = CliRunner()
    found = runner.invoke(study_command, ["status", str(path)])
    assert found.exit_code == 0, found.output
    assert f"cells  0 of {_CELLS} done, {_CELLS} left" in found.output
    assert "time left: not known" in found.output
    early = runner.invoke(study_command, ["report", str(path)])
    assert early.exit_code == 2
    assert "Traceback" not in early.output
    assert not (tmp_path / "out").exists()


def test_the_report_is_told_the_studys_margin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_study(tmp_path, tmp_path)
    path.write_text("margin = 2.5\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    told: list[Any] = []
    monkeypatch.setattr("limla.reporting.report", lambda *arguments: told.append(arguments))
    write_study_report(read_study(path))
    assert [arguments[-1] for arguments in told] == [0.025]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_with_the_same_rows(photo_folder: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_study(folder, photo_folder)
    # a number of threads of its own: with others, rounding in training may differ
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "limla", "study", "run", str(whole / "study.toml")]
    subprocess.run(command, capture_output=True, env=environment, check=True)
    command[-1] = str(killed / "study.toml")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + 300
    while not contents(killed) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = contents(killed)
    assert 0 < len(left) < _CELLS
    assert 0 < status_of(killed / "study.toml").cells.num_left < _CELLS
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert (killed / "out/report.html").is_file()
    assert contents(killed) == contents(whole)
