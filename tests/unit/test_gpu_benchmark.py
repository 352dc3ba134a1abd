"""The GPU benchmark's script, carried out on the CPU with a handful of images: that it runs, never how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
FEW = ("--model", "compact", "--images", "6", "--batch-size", "4", "--rounds", "1")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """From a checkout on PYTHONPATH, as on a machine where limla is not installed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_dry_run_measures_everything_but_the_gpu(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    out = tmp_path / "gpu.json"
    done = run("--device", "cpu", *FEW, "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["gpu"] == {}
    assert result["images"]["origin"].startswith("drawn")
    assert {row["loader"] for row in result["loading"]} == {
        "dali-cpu",
        "cpu",
        "torchvision decode_jpeg on cpu",
    }
    assert all(row["images_per_s"] > 0 for row in result["loading"] + result["training"])
    assert [row["attack"] for row in result["evaluation"]] == ["none", "fgsm", "pgd"]
    assert all(0 < row["share_waiting_for_data"] < 1 for row in result["evaluation"])
    *inputs, own_size = result["pixels"]
    assert [row["largest_difference"] for row in inputs] == pytest.approx([1, 1], abs=1)
    assert all(row["num_images"] == 6 and row["predictions_flipped"] <= 1 for row in inputs)
    assert own_size["largest_difference"] == 0, "DALI on the CPU decodes as the cpu loader does"


def test_a_dry_run_never_becomes_the_result() -> None:
    done = run("--device", "cpu", *FEW)
    assert done.returncode == 2
    assert "name another file with --out" in done.stderr
