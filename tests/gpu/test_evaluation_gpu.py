"""Evaluation on a GPU: rows equal when computed again and near the CPU's; torchrun; decoders side by side."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from limla.evaluation import EvaluateSettings, evaluate
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.source import open_source
from limla.results import read_predictions
from limla.types import Preprocessing
from tests.gpu.test_training_gpu import _environment

pytestmark = pytest.mark.gpu


def settings_for(shards: Path, checkpoint: Path, results_dir: Path, **changes: object) -> EvaluateSettings:
    usual = {"attacks": ("fgsm", "pgd"), "steps": 5, "batch_size": 8, "device": "cuda", "num_pictures": 2}
    return EvaluateSettings(shards, results_dir, (checkpoint,), **{**usual, **changes})


def files_of(results_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results_dir / "predictions").iterdir()}


@pytest.mark.parametrize("loader", ["dali", "cpu"])
def test_computed_again_the_rows_are_equal(loader: str, shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    for name in ("one", "two"):
        result = evaluate(settings_for(shards, checkpoint, tmp_path / name, loader=loader))
        assert 0 < result.seconds_loading + result.seconds_computing < result.seconds_total
    assert len(files_of(tmp_path / "one")) == 3
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_the_rows_are_near_the_cpus(shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The same pixels (cpu loader), so only the arithmetic differs."""
    tables = {}
    for device in ("cpu", "cuda"):
        evaluate(settings_for(shards, checkpoint, tmp_path / device, loader="cpu", device=device))
        tables[device] = {c.attack: table for c, table in read_predictions(tmp_path / device)}
    for attack, table in tables["cpu"].items():
        other = tables["cuda"][attack]
        assert other["key"].to_pylist() == table["key"].to_pylist()
        if attack != "pgd":  # its random start comes from the device's own generator
            assert np.allclose(other["loss"].to_numpy(), table["loss"].to_numpy(), rtol=0.02, atol=2e-3), attack
    clean = tables["cpu"]["none"], tables["cuda"]["none"]
    assert sum(a != b for a, b in zip(*(t["prediction"].to_pylist() for t in clean), strict=True)) <= 1


def test_torchrun_with_one_process_gives_the_same_files(shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    evaluate(settings_for(shards, checkpoint, tmp_path / "alone", loader="cpu"))
    processes = min(torch.cuda.device_count(), 2)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ("--checkpoint", checkpoint, "--data-dir", shards, "--output-dir", tmp_path / "shared")
    words += ("--attack", "fgsm,pgd", "--steps", 5, "--batch-size", 8, "--loader", "cpu")
    command = [*launch, "-m", "limla", "evaluate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


@pytest.mark.filterwarnings("ignore")
def test_torchvisions_gpu_decoder_and_dalis_agree_nearly(shards: Path, record_property) -> None:
    """Both use nvJPEG; compared at the images' own size, before any resize."""
    pytest.importorskip("nvidia.dali")
    own = LoaderSettings(Preprocessing(resize="none"), batch_size=1, device="cuda")
    source = open_source([shards / "source"], "test")
    worst = 0.0
    with closing(open_loader("dali", [shards / "source"], "test", own)) as loader:
        for number, batch in enumerate(loader):
            data = torch.frombuffer(bytearray(source.read(number).image), dtype=torch.uint8)
            decoded = torchvision.io.decode_jpeg(data, torchvision.io.ImageReadMode.RGB, device="cuda")
            assert decoded.shape == batch.images.shape[1:]
            worst = max(worst, float((decoded / 255 - batch.images[0]).abs().mean()))
    source.close()
    record_property("mean_difference_levels_of_the_worst_image", 255 * worst)
    assert worst <= 3 / 255
