"""Evaluation with compression as a defence: its cells, rows, and resuming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from limla.attacks.base import Attack, build_attack
from limla.cli import limla
from limla.codecs.jpeg import JpegCodec
from limla.defences import CodecDefence, attackers_view
from limla.evaluation import EvaluateResult, evaluate, grid
from limla.evaluation.grid import passes, plan_cells
from limla.evaluation.passes import batch_seed
from limla.loaders.base import LoaderSettings, open_loader
from limla.models import parts
from limla.models.checkpoint import load_checkpoint
from limla.models.victim import Victim
from limla.plans import DefencePlan
from limla.progress import Progress
from limla.registry import CODECS
from limla.results import Condition, read_predictions
from tests.unit.animals import NUM_TEST, PREPROCESSING, SIDE, checkpoint, data_dir, files_of, settings_for

__all__ = ["checkpoint", "data_dir"]  # fixtures

DEFENCES = (
    DefencePlan("jpeg", (20,), ("static", "bpda", "differentiable")),
    DefencePlan("jpeg", (10, 60), ("static", "eot-bpda")),
)
NUM_CELLS = 3 + (1 + 2 * 3) + (1 + 2 * 2)


@pytest.fixture(scope="module")
def finished(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    """An uninterrupted evaluation of source with none, fgsm and pgd, undefended and behind two defences. Read only."""
    results_dir = tmp_path_factory.mktemp("results")
    return evaluate(settings_for(data_dir, checkpoint, results_dir, qualities=(None,), defences=DEFENCES))


def cells_of(results_dir: Path) -> dict[tuple[str, str, str], tuple[Condition, pa.Table]]:
    """(attack, defence's quality, threat) → condition and rows."""
    return {
        (condition.attack, condition.defence_quality, condition.threat): (condition, table)
        for condition, table in read_predictions(results_dir)
    }


def test_the_grid_is_every_attack_behind_every_defence(finished: EvaluateResult) -> None:
    cells = cells_of(finished.results_dir)
    assert len(cells) == len(finished.cells) == NUM_CELLS
    assert set(cells) == {
        ("none", "", ""),
        ("fgsm", "", ""),
        ("pgd", "", ""),
        ("none", "20", ""),
        ("none", "10+60", ""),
        *((attack, "20", threat) for attack in ("fgsm", "pgd") for threat in DEFENCES[0].threats),
        *((attack, "10+60", threat) for attack in ("fgsm", "pgd") for threat in DEFENCES[1].threats),
    }
    for (_, quality, _), (condition, table) in cells.items():
        assert len(table) == NUM_TEST
        assert condition.defence_codec == ("jpeg" if quality else "")
        assert (table["num_bytes"].null_count == 0) == bool(quality)
        assert table["target"].null_count == NUM_TEST
        assert ('"defence"' in condition.attack_settings) == bool(quality)
        assert ('"seed"' in condition.attack_settings) == (condition.attack == "pgd" or quality == "10+60")


def test_rows_are_those_of_a_plain_loop(finished: EvaluateResult, data_dir: Path, checkpoint: Path) -> None:
    """Attack by hand, encode, decode by hand: a static attack's images are the undefended cell's."""
    model = load_checkpoint(checkpoint).model
    codec = JpegCodec()
    found: dict[tuple[str, str], list[tuple[int, float, int]]] = {}
    loader_settings = LoaderSettings(preprocessing=PREPROCESSING, batch_size=5)
    for number, batch in enumerate(open_loader("cpu", [data_dir / "source"], "test", loader_settings)):
        seed = batch_seed(0, number)
        for name in ("none", "fgsm", "pgd"):
            parameters: dict[str, Any] = {} if name == "none" else {"eps": 8 / 255}
            if name == "pgd":
                parameters["steps"] = 3
            attacked = build_attack(name, parameters).run(model, batch.images, batch.labels, seed)
            pixels = (attacked * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            for defence in DEFENCES:
                drawn = CodecDefence(defence).draw(len(pixels), seed)
                streams = [codec.encode(image, quality) for image, quality in zip(pixels, drawn, strict=True)]
                decoded = torch.from_numpy(np.stack([codec.decode(stream) for stream in streams]))
                with torch.no_grad():
                    logits = model(decoded.permute(0, 3, 1, 2).float() / 255)
                losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
                rows = zip(logits.argmax(1).tolist(), losses.tolist(), map(len, streams), strict=True)
                found.setdefault((name, defence.quality), []).extend(rows)
    cells = cells_of(finished.results_dir)
    for (name, quality), rows in found.items():
        _, table = cells[name, quality, "" if name == "none" else "static"]
        predictions, losses, num_bytes = map(list, zip(*rows, strict=True))
        assert table["prediction"].to_pylist() == predictions
        # the fast copy's gradients round otherwise, so a pixel here and there differs by a step
        tolerance: dict[str, float] = {"rel": 1e-3} if name == "none" else {"rel": 0.05, "abs": 0.02}
        assert table["loss"].to_pylist() == pytest.approx(losses, **tolerance)
        off = np.abs(np.array(table["num_bytes"].to_pylist()) - num_bytes)
        assert off.max() <= (0 if name == "none" else 12)
        assert (off == 0).mean() > 0.5


def test_attackers_who_know_raise_the_loss(finished: EvaluateResult) -> None:
    loss = {
        cell: float(np.mean(table["loss"].to_numpy()))
        for cell, (_, table) in cells_of(finished.results_dir).items()
    }
    for quality, threats in (("20", ("bpda", "differentiable")), ("10+60", ("eot-bpda",))):
        for attack in ("fgsm", "pgd"):
            assert all(loss[attack, quality, threat] > loss["none", quality, ""] for threat in threats)


def test_cells_that_share_their_attacked_images_attack_once(
    data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    run = Attack.run

    def count(self: Attack, *arguments: Any) -> Tensor:
        runs.append(self.name)
        return run(self, *arguments)

    monkeypatch.setattr(Attack, "run", count)
    evaluate(settings_for(data_dir, checkpoint, tmp_path, qualities=(None,), defences=DEFENCES))
    # undefended and static are one attack, and so is every other threat model on each defence
    assert {name: runs.count(name) / 3 for name in set(runs)} == {"none": 1, "fgsm": 4, "pgd": 4}


def test_cells_behind_a_defence_do_not_depend_on_the_others(
    finished: EvaluateResult, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = files_of(finished.results_dir)
    alone = settings_for(
        data_dir, checkpoint, tmp_path, qualities=(None,), attacks=("pgd",), defences=DEFENCES[1:]
    )
    evaluate(alone)
    found = files_of(tmp_path)
    assert len(found) == 2 + 3
    assert found.items() <= whole.items()


def test_threads_change_no_byte(
    data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in three parts, on fewer and on as many threads; codecs on one thread and on several."""
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 3 * SIDE * SIDE * 4)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, number=number: set(range(number)))
            results_dir = tmp_path / str(number)
            chosen = settings_for(
                data_dir, checkpoint, results_dir, qualities=(10,), attacks=("fgsm",), defences=DEFENCES
            )
            evaluate(chosen)
            found.append(files_of(results_dir))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert len(found[0]) == 2 + 4 + 3


def test_every_attacker_is_given_the_fast_copy(
    data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def listen(victim: Victim, defence: CodecDefence | None, threat: str) -> nn.Module:
        assert isinstance(victim, Victim)
        assert victim.fused_layers > 0
        assert victim.splits
        assert victim.notes == ()
        seen.append(threat)
        return attackers_view(victim, defence, threat)

    monkeypatch.setattr("limla.evaluation.passes.attackers_view", listen)
    evaluate(
        settings_for(data_dir, checkpoint, tmp_path, qualities=(10,), attacks=("fgsm",), defences=DEFENCES[:1])
    )
    assert {"bpda", "differentiable"} < set(seen)


def test_a_pass_counts_every_quality_that_an_attacker_averages_over(
    data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    settings = settings_for(data_dir, checkpoint, tmp_path, attacks=("pgd",), steps=50, defences=DEFENCES)
    cells = plan_cells(settings)
    # of one quality, the last group would cost 4,590 passes of an image through the model and fit into the first pass
    first, last = passes(cells, num_samples=90)
    assert [cell.threat for cell in last] == ["eot-bpda"]
    assert {*first, *last} == set(cells)
    assert len(first) == len(cells) - 1


def test_interrupted_between_passes_the_rest_is_the_uninterrupted_runs(
    finished: EvaluateResult,
    data_dir: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grid, "_GRADIENTS_PER_PASS", 100)

    class Interrupting(Progress):
        number = 0

        @contextmanager
        def stage(self, description: str, total: int | None, unit: str = "images") -> Any:
            Interrupting.number += 1
            if Interrupting.number == 3:
                raise KeyboardInterrupt
            yield lambda number: None

    chosen = settings_for(data_dir, checkpoint, tmp_path, qualities=(None,), defences=DEFENCES)
    with pytest.raises(KeyboardInterrupt):
        evaluate(chosen, Interrupting())
    whole = files_of(finished.results_dir)
    assert 0 < len(files_of(tmp_path)) < NUM_CELLS
    # as if a kill had hit while the cells of the last pass were written
    next(iter((tmp_path / "predictions").iterdir())).unlink()
    again = evaluate(chosen)
    assert 0 < again.num_skipped < NUM_CELLS
    assert files_of(tmp_path) == whole


@pytest.mark.slow
def test_killed_and_resumed_the_rows_are_the_uninterrupted_runs(
    finished: EvaluateResult, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """kill -9 of the real command; with a pass per attack, so that some cells are there and others are not."""
    script = (
        "from limla.evaluation import grid; grid._GRADIENTS_PER_PASS = 1; from limla.cli import main; main()"
    )
    words = [sys.executable, "-c", script, "evaluate", "--checkpoint", str(checkpoint)]
    words += ["--data-dir", str(data_dir), "--quality", "source", "--attack", "fgsm,pgd", "--steps", "3"]
    words += ["--output-dir", str(tmp_path), "--batch-size", "5", "--device", "cpu", "--loader", "cpu"]
    words += ["--defence", "jpeg:20", "--defence", "jpeg:10+60"]
    words += ["--threat", "static,bpda,differentiable,eot-bpda"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    folder = tmp_path / "predictions"
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(folder.glob("*.parquet"))) >= 4:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL, "nothing was killed: the test says nothing"
    assert len(list(folder.glob("*.parquet"))) < NUM_CELLS
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "cells were there already" in done.stderr
    assert files_of(tmp_path) == files_of(finished.results_dir)


def test_command_line_gives_the_same_cells(
    data_dir: Path, checkpoint: Path, finished: EvaluateResult, tmp_path: Path
) -> None:
    words = ["evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--quality", "source"]
    words += ["--attack", "fgsm,pgd", "--steps", "3", "--output-dir", tmp_path, "--batch-size", "5"]
    words += ["--device", "cpu", "--loader", "cpu", "--defence", "jpeg:20,10+60"]
    words += ["--threat", "static,bpda,differentiable,eot-bpda"]
    done = CliRunner().invoke(limla, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert files_of(tmp_path) == files_of(finished.results_dir)
    assert "jpeg 10+60" in done.stdout
    assert "eot-bpda" in done.stdout


def test_no_differentiable_model_is_said_before_any_work(
    data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS.plugs, "squeeze", "limla.codecs.jpeg:JpegCodec")
    words = ["evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--quality", "source"]
    words += ["--attack", "fgsm", "--output-dir", tmp_path / "out", "--defence", "squeeze:50"]
    done = CliRunner().invoke(limla, list(map(str, [*words, "--threat", "static,differentiable"])))
    assert done.exit_code == 2
    assert "choose bpda" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
