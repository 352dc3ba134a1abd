"""What processes that evaluate together check of each other, and how they learn that one has ended."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import ProcessLostError, SettingsError
from limla.evaluation import evaluate
from limla.evaluation.models import EvaluatedModel, model_sources
from limla.evaluation.passes import run_pass
from limla.evaluation.stage import _check_alike
from limla.loaders.base import LoaderSettings, open_loader
from limla.progress import SILENT
from limla.world import World, joined, tells_the_user
from tests.unit.animals import CLASSES, PREPROCESSING, checkpoint, data_dir, settings_for
from tests.unit.launching import ENVIRONMENT, errors_in, one_thread

__all__ = ["checkpoint", "data_dir", "one_thread"]  # fixtures


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
    with closing(open_loader("cpu", [data_dir / "source"], "test", loader_settings)) as loader:
        batches = ((batch,) for batch in loader)
        with pytest.raises(SettingsError, match=f"speed-up '{name}' {seen}") as caught:
            run_pass(settings, model, batches, 3, [], frozenset(), Elsewhere(name, value), lambda number: None)
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
