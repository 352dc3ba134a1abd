"""Evaluation shared between the processes of a real torchrun: the files of one process, errors, kills, Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import ProcessLostError, SettingsError
from limla.evaluation import EvaluateSettings, evaluate
from limla.evaluation.models import EvaluatedModel, model_sources
from limla.evaluation.passes import run_pass
from limla.evaluation.stage import _check_alike
from limla.loaders.base import LoaderSettings, open_loader
from limla.manifest import variant_name
from limla.models.base import ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.progress import SILENT
from limla.results import read_predictions
from limla.shard_reader import read_index
from limla.shards import shard_name
from limla.world import World, joined, tells_the_user
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

__all__ = ["checkpoint", "data_dir"]  # fixtures
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def words_for(data_dir: Path, checkpoint: Path, results_dir: Path, *more: object) -> list[str]:
    words = ("--checkpoint", checkpoint, "--data-dir", data_dir, "--output-dir", results_dir)
    return [*map(str, (*words, "--device", "cpu", "--attack", "fgsm,pgd", *more))]


def torchrun(processes: int, *words: str, seconds: int = 120) -> subprocess.CompletedProcess[str]:
    command = [*LAUNCH, str(processes), "-m", "limla", *words]
    return subprocess.run(
        command, env=ENVIRONMENT, timeout=seconds, capture_output=True, text=True, check=False
    )


def errors_in(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("Error")]


def leftovers(folder: Path) -> list[Path]:
    """Half-written files, and rows without their cell."""
    return [path for path in folder.rglob("*") if "tmp" in path.name or path.suffix == ".parquet"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as torchrun gives each process."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


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


@dataclass
class Launched:
    """A torchrun at work."""

    process: subprocess.Popen[str]

    def pid_of(self, rank: int) -> int:
        """The process id of a rank."""
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"PPid:\t{self.process.pid}\n" not in (path / "status").read_text():
                    continue
                if f"\0RANK={rank}\0".encode() in b"\0" + (path / "environ").read_bytes():
                    return int(path.name)
        raise AssertionError(f"no process of rank {rank}")


@contextmanager
def launched(processes: int, words: Sequence[str], until: Path, *options: str) -> Iterator[Launched]:
    """Start torchrun and wait until something matches the pattern `until`; it must end within the block."""
    command = [*LAUNCH, str(processes), *options, "-m", "limla", *words]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 90
            while not list(until.parent.glob(until.name)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield Launched(process)
            assert process.poll() is not None
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


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


@pytest.mark.parametrize("command", ["predict", "run", "pack", "report"])
def test_other_commands_refuse_torchrun(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = {
        "predict": ["--checkpoint", "best.pt", "photo.jpg"],
        "run": ["--raw", "photos"],
        "pack": ["photos", str(tmp_path / "shards")],
        "report": ["results"],
    }[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shown in ((0, 1), (1, 0)):
        monkeypatch.setenv("RANK", str(rank))
        done = CliRunner().invoke(limla, [command, *words])
        assert done.exit_code == 2
        assert len(errors_in(done.stderr)) == shown, "the first process shows it"
        assert shown == done.stderr.count(f"limla {command} runs in one process, and torchrun started 2")
    assert not list(tmp_path.iterdir())


class TwoProcesses(World):
    """The first of two, where the second one's values are given."""

    def __init__(self, other: Any) -> None:
        super().__init__(0, 2, torch.device("cpu"))
        object.__setattr__(self, "other", other)

    def gather(self, value: Any) -> list[Any]:
        return [value, vars(self)["other"]]


def test_processes_that_see_other_data_are_refused(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = evaluate(settings_for(data_dir, checkpoint, tmp_path, attacks=("none",), qualities=(10,)))
    condition = result.cells[0].condition
    _check_alike([condition], TwoProcesses([condition]))
    other = replace(condition, decoder="dali-gpu")
    with pytest.raises(
        SettingsError, match=r"process 1 sees another decoder \(dali-gpu\) than process 0 \(cpu\)"
    ):
        _check_alike([condition], TwoProcesses([other]))


class Elsewhere(World):
    """The first of two processes; on the other one's CPU something is not found to suit the model."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(0, 2, torch.device("cpu"))
        object.__setattr__(self, "change", {name: value})

    def gather(self, value: Any) -> list[Any]:
        found, notes = value
        assert vars(self)["change"].keys() <= found.keys()
        return [value, ({**found, **vars(self)["change"]}, (*notes, "logits differ by 2.0e-03 of 1.0e+00"))]

    def broadcast(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("batch norms fused into convolutions", 0, r"is 0 in process 1 and [1-9]\d* in process 0"),
        ("channels-last", False, "is False in process 1 and True in process 0"),
        ("frozen convolutions", -1, r"is -1 in process 1 and \d+ in process 0"),
        ("batches in parts", False, r"is False in process 1 and True in process 0 \(logits differ by 2.0e-03"),
    ],
)
def test_processes_that_use_other_speed_ups_are_refused(
    name: str, value: object, seen: str, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    settings = settings_for(data_dir, checkpoint, tmp_path)
    (source,) = model_sources(settings, "cpu", CLASSES)
    model = EvaluatedModel(source, "cpu", SILENT)
    loader_settings = LoaderSettings(PREPROCESSING, batch_size=5, device="cpu", world_size=2)
    with (
        closing(open_loader("cpu", [data_dir / "source"], "test", loader_settings)) as loader,
        pytest.raises(SettingsError, match=f"speed-up '{name}' {seen}") as caught,
    ):
        run_pass(settings, model, loader, 3, [], frozenset(), Elsewhere(name, value), lambda number: None)
    assert "CPUs or GPUs of one kind" in str(caught.value)


def test_a_broken_connection_is_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *arguments, **more: None)
    monkeypatch.setattr(torch.distributed, "new_group", lambda *arguments, **more: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    world = World(1, 2, torch.device("cpu"))
    with pytest.raises(ProcessLostError, match="another process of this run has ended"), joined(world):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="a bug of ours"), joined(world):
        raise RuntimeError("a bug of ours")


WAITING = """
import os, sys, time
from datetime import timedelta
import torch
from limla import world
from limla.errors import ProcessLostError
world._TIMEOUT = timedelta(seconds=2)
me = world.torchrun_world("cpu")
with world.joined(me, tensors=False):
    if me.rank == 1:
        time.sleep(4)
    me.wait()
    print("together", flush=True)
    if me.rank == 1:
        os._exit(3)
    try:
        me.wait()
    except ProcessLostError:
        print("told", flush=True)
"""


@pytest.mark.slow
def test_one_process_may_keep_the_others_waiting_but_not_die() -> None:
    """Longer than all else may take, as where it reads a large variant; its end is noticed at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING],
            env={**ENVIRONMENT, **place, "RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=60)[0].split() for process in begun]
    assert said == [["together", "told"], ["together"]]


def test_a_process_without_torchruns_store_tells_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tells_the_user(lost_another=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert tells_the_user(lost_another=True)


@pytest.mark.parametrize(("name", "value"), [("RANK", "two"), ("WORLD_SIZE", "many")])
def test_numbers_that_torchrun_did_not_set(
    name: str, value: str, data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="must be numbers, as torchrun sets them"):
        evaluate(settings_for(data_dir, checkpoint, tmp_path / "out"))
