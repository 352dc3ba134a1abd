"""Evaluation shared between the processes of a real torchrun: the files of one process, errors, kills, Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limla.evaluation import EvaluateSettings, evaluate
from limla.manifest import variant_name
from limla.models.base import ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.results import read_predictions
from limla.shard_reader import read_index
from limla.shards import shard_name
from tests.toy import make_toy
from tests.unit.animals import (
    CLASSES,
    PREPROCESSING,
    checkpoint,
    data_dir,
    files_of,
    settings_for,
    write_variant,
)
from tests.unit.launching import (
    ENVIRONMENT,
    LAUNCH,
    errors_in,
    is_alive,
    launched,
    one_thread,
    torchrun,
    words_for,
)

__all__ = ["checkpoint", "data_dir", "one_thread"]  # fixtures


def leftovers(folder: Path) -> list[Path]:
    """Half-written files, and rows without their cell."""
    return [path for path in folder.rglob("*") if "tmp" in path.name or path.suffix == ".parquet"]


def pictures_of(results_dir: Path) -> dict[str, bytes]:
    folder = results_dir / "samples"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.slow
def test_the_files_are_those_of_one_process(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The command, with batches of 5, 5 and 4 over two shards."""
    evaluate(settings_for(data_dir, checkpoint, tmp_path / "alone", batch_size=5, qualities=(10,)))
    more = ("--loader", "cpu", "--batch-size", 5, "--steps", 3, "--quality", 10)
    done = torchrun(2, "evaluate", *words_for(data_dir, checkpoint, tmp_path / "shared", *more))
    assert done.returncode == 0, done.stderr
    assert len(files_of(tmp_path / "alone")) == 3
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    assert pictures_of(tmp_path / "shared") == pictures_of(tmp_path / "alone")
    assert done.stderr.count("42/42 images") == 1, "one process reports, and counts every one's images"
    assert done.stdout.count("robust_accuracy") == 1, "one process shows the table"
    assert not list((tmp_path / "shared").glob(".*"))


EVALUATIONS = """
import pickle, sys
from pathlib import Path
from limla.evaluation import evaluate
from limla.world import joined, torchrun_world
world = torchrun_world("cpu")
with joined(world, tensors=False):
    for settings in pickle.loads(Path(sys.argv[1]).read_bytes()):
        result = evaluate(settings)
        assert all(cell.computed for cell in result.cells)
print(world.world_size, "processes")
"""


@pytest.mark.slow
def test_three_processes_give_the_files_of_one_whatever_the_loader(
    data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Also of a model as large as users have, which computes in parts of a batch.

    torchrun gives each process one thread; the process alone has two.
    """
    torch.manual_seed(0)
    model = build_model("MobileNetV2", len(CLASSES)).eval()
    info = ModelInfo("MobileNetV2", len(CLASSES), CLASSES, PREPROCESSING)
    save_checkpoint(tmp_path / "net.pt", model, info)
    cases = {
        "cpu": (checkpoint, {"batch_size": 8}),  # fewer batches than processes
        "webdataset": (checkpoint, {"batch_size": 4, "loader": "webdataset"}),
        "large": (tmp_path / "net.pt", {"batch_size": 9}),
    }
    with suppress(ModuleNotFoundError):  # the package 'nvidia' may be missing too
        if importlib.util.find_spec("nvidia.dali"):
            cases["dali"] = (checkpoint, {"batch_size": 4, "loader": "dali"})
    torch.set_num_threads(2)
    shared: list[EvaluateSettings] = []
    for name, (path, changes) in cases.items():
        settings = settings_for(data_dir, path, tmp_path / "alone" / name, qualities=(10,), **changes)
        evaluate(settings)
        shared.append(replace(settings, results_dir=tmp_path / "shared" / name))
    (tmp_path / "settings").write_bytes(pickle.dumps(shared))
    (tmp_path / "evaluations.py").write_text(EVALUATIONS)
    words = [*LAUNCH, "3", str(tmp_path / "evaluations.py"), str(tmp_path / "settings")]
    done = subprocess.run(words, env=ENVIRONMENT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 processes") == 3
    for name in cases:
        found, expected = tmp_path / "shared" / name, tmp_path / "alone" / name
        assert len(files_of(expected)) == 3
        assert files_of(found) == files_of(expected), name
        assert pictures_of(found) == pictures_of(expected), name


LONG: dict[str, Any] = {"qualities": (10,), "steps": 150}
"""An evaluation of a second or two: long enough to be stopped."""


def words_for_long(data_dir: Path, checkpoint: Path, results_dir: Path) -> list[str]:
    words = ("--quality", 10, "--batch-size", 5, "--loader", "cpu", "--steps", LONG["steps"])
    return words_for(data_dir, checkpoint, results_dir, *words)


@pytest.fixture(scope="module")
def long_alone(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone")
    evaluate(settings_for(data_dir, checkpoint, folder, **LONG))
    return files_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill -9", "ctrl-c"])
def test_a_stopped_run_leaves_nothing_half_done_and_goes_on(
    how: str, data_dir: Path, checkpoint: Path, long_alone: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = words_for_long(data_dir, checkpoint, out)
    with launched(2, ["evaluate", *words], out / ".*.lock") as run:
        pids = [run.pid_of(rank) for rank in (0, 1)]
        if how == "kill -9":
            os.kill(pids[1], signal.SIGKILL)
        else:
            run.process.send_signal(signal.SIGINT)
        _, stderr = run.process.communicate(timeout=60)
        assert run.process.returncode != 0
    assert not leftovers(out)
    assert not [pid for pid in pids if is_alive(pid)]
    if how == "ctrl-c":
        assert len([line for line in stderr.splitlines() if line.startswith("Error: interrupted")]) <= 1
    evaluate(settings_for(data_dir, checkpoint, out, **LONG))
    assert files_of(out) == long_alone


@pytest.mark.slow
def test_torchrun_may_start_a_killed_process_again(
    data_dir: Path, checkpoint: Path, long_alone: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = words_for_long(data_dir, checkpoint, out)
    with launched(2, ["evaluate", *words], out / ".*.lock", "--max-restarts", "1") as run:
        os.kill(run.pid_of(1), signal.SIGKILL)
        _, stderr = run.process.communicate(timeout=90)
        assert run.process.returncode == 0, stderr
    assert files_of(out) == long_alone


def damage(path: Path, number: int) -> None:
    """Overwrite the image of a shard's sample."""
    start, length = read_index(path)[number].members["jpg"]
    data = bytearray(path.read_bytes())
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


@pytest.mark.slow
def test_one_process_tells_of_an_error_and_all_end(checkpoint: Path, tmp_path: Path) -> None:
    """Batch 1, which process 1 takes, holds the damaged image."""
    folder = tmp_path / "animals"
    write_variant(folder, None)
    write_variant(folder, 10)
    damage(folder / variant_name("jpeg", 10) / shard_name("test", 0), 6)
    words = words_for(
        folder, checkpoint, tmp_path / "out", "--batch-size", 5, "--loader", "cpu", "--no-verify", "--steps", 3
    )
    started = time.monotonic()
    done = torchrun(2, "evaluate", *words)
    assert time.monotonic() - started < 60
    assert done.returncode != 0
    (line,) = errors_in(done.stderr)
    assert "test/cat/photo006" in line
    assert "exitcode  : 2" in done.stderr
    assert len(files_of(tmp_path / "out")) == 3, "the cells of the originals, which came first, are kept"

    write_variant(folder, 10)
    again = evaluate(settings_for(folder, checkpoint, tmp_path / "out", verify=False))
    assert (again.num_skipped, len(again.cells)) == (3, 6), "one process goes on where two were"
    assert len(read_predictions(tmp_path / "out")) == 6


@pytest.mark.slow
def test_an_error_that_all_processes_meet_is_told_once(
    data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    done = torchrun(2, "evaluate", *words_for(data_dir, checkpoint, tmp_path / "out", "--quality", 77))
    (line,) = errors_in(done.stderr)
    assert "has no jpeg-q77" in line
    assert done.stderr.count("exitcode  : 2") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_tells_once_of_an_error_in_one_process(tmp_path: Path) -> None:
    data_dir = make_toy(tmp_path / "toy").parent
    damage(data_dir / "source" / shard_name("train", 0), 17)
    words = ("--data-dir", data_dir, "--output-dir", tmp_path / "out", "--model", "compact", "--epochs", 2)
    words += ("--image-size", 32, "--resize", "none", "--batch-size", 8, "--device", "cpu", "--workers", 1)
    done = torchrun(2, "train", *map(str, words))
    assert done.returncode != 0
    (line,) = errors_in(done.stderr)
    assert "train-000000.tar" in line
