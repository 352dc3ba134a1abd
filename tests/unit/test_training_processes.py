"""Training in real processes: killed and started again, and two at once under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from limla.attacks.base import build_attack
from limla.loaders.base import LoaderSettings, open_loader
from limla.models.checkpoint import load_checkpoint, read_checkpoint
from limla.plans import parse_attack
from limla.tasks.classification import Classification
from limla.training import TrainSettings, train
from limla.types import Preprocessing
from tests.toy import make_toy

pytestmark = pytest.mark.slow
METHODS = {"--random-quality": "5,20,60", "--adversary": "pgd:eps=2/255,steps=2,alpha=1/255"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(data_dir: Path, output_dir: Path, *more: object) -> list[str]:
    words = (
        *("-m", "limla", "train", "--data-dir", data_dir, "--output-dir", output_dir, "--model", "compact"),
        *("--image-size", 32, "--resize", "none", "--batch-size", 8, "--device", "cpu", "--workers", 1, *more),
    )
    return [str(word) for word in words]


@pytest.mark.parametrize(
    ("methods", "num_images", "epochs", "kills"),
    [({}, 120, 25, (1, 12)), (METHODS, 40, 6, (1, 3))],
    ids=["standard", "random-attacked"],
)
def test_killed_and_run_again_it_ends_with_the_same_weights(
    methods: dict[str, str],
    num_images: int,
    epochs: int,
    kills: tuple[int, int],
    tmp_path: Path,
    one_thread: None,
) -> None:
    data_dir = make_toy(tmp_path / "toy", counts={"train": num_images, "val": 12}).parent
    cut = tmp_path / "cut"
    for kill_after in kills:
        length = ("--epochs", epochs, "--patience", epochs)
        words = command(data_dir, cut, *length, "--augment", *chain(*methods.items()))
        process = subprocess.Popen([sys.executable, *words], env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        while epochs_in(cut) < kill_after and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL, "it was killed before it finished"
    assert kills[1] <= epochs_in(cut) < epochs

    settings = TrainSettings(
        data_dir, cut, model="compact", epochs=epochs, patience=epochs, augment=True, batch_size=8, device="cpu",
        num_threads=1, preprocessing=Preprocessing(32, "none"),
    )  # fmt: skip
    if methods:
        settings = replace(
            settings, random_qualities=(5, 20, 60), adversary=parse_attack(methods["--adversary"])
        )
    again, whole = train(settings), train(replace(settings, output_dir=tmp_path / "whole"))
    assert again.metrics == whole.metrics
    for name in ("best.pt", "last.pt"):
        one, other = (read_checkpoint(tmp_path / folder / name)[1] for folder in ("whole", "cut"))
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert whole.best_checkpoint.read_bytes() == again.best_checkpoint.read_bytes()
    assert not [path.name for path in cut.iterdir() if "tmp" in path.name or "lock" in path.name]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the killed processes had: sums are then taken in the same order."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def epochs_in(folder: Path) -> int:
    """Epochs that history.csv lists."""
    path = folder / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.mark.parametrize("more", [(), ("--freeze-backbone",), ("--adversary", "fgsm:eps=4/255")], ids=" ".join)
def test_two_processes_train_one_model(more: tuple[str, ...], tmp_path: Path) -> None:
    # 37 training images and 11 in batches of 8: both splits divide unevenly
    data_dir = make_toy(tmp_path / "toy").parent
    out = tmp_path / "out"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = command(data_dir, out, "--epochs", 3, "--seed", 1, "--learning-rate", 0.01, *more)
    done = subprocess.run(
        [sys.executable, *launch, *words], env=ENVIRONMENT, timeout=180, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 3/3: train loss") == 1, "one process reports"
    info = json.loads((out / "info.json").read_text())
    assert info["finished"] is True
    assert info["settings"]["processes"] == 2

    loaded = load_checkpoint(out / "best.pt")
    loader = open_loader("cpu", [data_dir / "source"], "val", LoaderSettings(loaded.info.preprocessing, 4))
    with torch.no_grad():
        judged = [Classification().judge(loaded.model(batch.images), batch.labels) for batch in loader]
    loader.close()
    losses, correct = (torch.cat([getattr(one, name) for one in judged]) for name in ("losses", "correct"))
    assert len(losses) == 11
    assert info["best"]["val_loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    assert info["best"]["val_accuracy"] == pytest.approx(float(correct.float().mean()), rel=1e-6)
    if "--freeze-backbone" not in more:
        assert info["best"]["val_accuracy"] > 0.6, "it learns"
    if "--adversary" in more:
        # fgsm has no random start: what the two processes found together can be computed by one
        attack = build_attack("fgsm", {"eps": 4 / 255})
        (batch,) = open_loader(
            "cpu", [data_dir / "source"], "val", LoaderSettings(loaded.info.preprocessing, 64)
        )
        images = attack.run(loaded.model, batch.images, batch.labels, seed=0)
        with torch.no_grad():
            judged_all = Classification().judge(loaded.model(images), batch.labels)
        assert info["best"]["val_robust_loss"] == pytest.approx(float(judged_all.losses.mean()), rel=1e-3)
