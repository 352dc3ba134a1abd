"""Training on a GPU: float32 and AMP, channels last, resumed, and NCCL under torchrun."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limla.models.checkpoint import load_checkpoint, read_checkpoint
from limla.plans import parse_attack
from limla.training import TrainSettings, train
from limla.types import Preprocessing
from tests.gpu.conftest import SIDE

pytestmark = pytest.mark.gpu


def settings_for(shards: Path, output_dir: Path, **changes: object) -> TrainSettings:
    usual = {"model": "MobileNetV2", "epochs": 1, "batch_size": 8, "preprocessing": Preprocessing(SIDE)}
    return TrainSettings(shards, output_dir, device="cuda", **{**usual, **changes})


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("loader", ["auto", "cpu"])
def test_one_epoch(amp: bool, loader: str, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    result = train(settings_for(shards, tmp_path, amp=amp, loader=loader, augment=True))
    assert result.epochs_run == 1
    assert all(math.isfinite(value) for value in result.metrics.values())
    loaded = load_checkpoint(result.best_checkpoint)
    assert loaded.info.extra["decoder"] == ("dali-gpu" if loader == "auto" else "cpu")
    assert all(torch.isfinite(parameter).all() for parameter in loaded.model.parameters())


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("loader", ["auto", "cpu"])
def test_random_quality_against_an_adversary(amp: bool, loader: str, shards: Path, tmp_path: Path) -> None:
    """Re-encoded files go to the GPU decoder; the attack is float32 with amp too, so a tiny eps does not vanish."""
    pytest.importorskip("nvidia.dali")
    adversary = parse_attack("pgd:eps=0.001,steps=2,alpha=0.001")
    settings = {"amp": amp, "loader": loader, "random_qualities": (10, None, 90), "adversary": adversary}
    result = train(settings_for(shards, tmp_path, **settings))
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["val_robust_loss"] > result.metrics["val_loss"]
    assert load_checkpoint(result.best_checkpoint).info.extra["adversary"]["steps"] == 2


def test_a_second_epoch_continues_the_first(shards: Path, tmp_path: Path) -> None:
    whole = train(settings_for(shards, tmp_path / "whole", epochs=2, patience=2, loader="cpu"))
    assert whole.epochs_run == 2
    _, _, training = read_checkpoint(tmp_path / "whole" / "last.pt")
    assert training["state"]["epoch"] == 2


@pytest.mark.parametrize("more", [(), ("--amp",)])
def test_nccl_with_one_process(more: tuple[str, ...], shards: Path, tmp_path: Path) -> None:
    """torchrun with one process per GPU; with one GPU, the process group is made by hand, of one member."""
    script = (
        "import torch; from limla.world import World, joined; import torch.distributed as d; "
        "torch.cuda.set_device(0); w = World(0, 1, torch.device('cuda', 0)); "
        "d.init_process_group('cpu:gloo,cuda:nccl'); "
        "t = torch.ones(3, device='cuda'); d.all_reduce(t); assert t.sum().item() == 3; "
        "l = [{'rows': [1]}]; d.broadcast_object_list(l, src=0); "
        "g = [None]; d.gather_object({'rows': [2]}, g, dst=0); assert g == [{'rows': [2]}]; "
        "m = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2).cuda(), device_ids=[0]); "
        "m(torch.ones(4, 3, device='cuda')).sum().backward(); d.destroy_process_group(); print('fine')"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    path = tmp_path / "check.py"
    path.write_text(script)
    done = subprocess.run([*launch, str(path)], capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout
    words = ("--data-dir", shards, "--output-dir", tmp_path / "out", "--model", "compact", "--epochs", 1)
    words += ("--image-size", SIDE, "--batch-size", 8, "--device", "cuda", *more)
    command = [*launch, "-m", "limla", "train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "info.json").read_text())["finished"] is True


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_nccl_with_two_processes(shards: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ("--data-dir", shards, "--output-dir", tmp_path / "out", "--model", "compact", "--epochs", 2)
    words += ("--image-size", SIDE, "--batch-size", 8)
    command = [*launch, "-m", "limla", "train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "out" / "info.json").read_text())
    assert info["settings"]["processes"] == 2
