"""Evaluation: the grid of cells, its rows and pictures, and resuming."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as PillowImage
from torch import nn

from limla.attacks.base import build_attack
from limla.cli import limla
from limla.errors import SettingsError
from limla.evaluation import EvaluateResult, evaluate
from limla.evaluation.passes import batch_seed
from limla.evaluation.pictures import choose_keys, picture_name
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.cpu import CpuLoader
from limla.manifest import read_manifest, variant_name
from limla.models.checkpoint import load_checkpoint
from limla.progress import Progress
from limla.results import read_predictions
from tests.listening import Listening
from tests.unit.animals import (
    CLASSES,
    NUM_TEST,
    PREPROCESSING,
    checkpoint,
    data_dir,
    files_of,
    settings_for,
)

__all__ = ["checkpoint", "data_dir"]  # fixtures


@pytest.fixture(scope="module")
def finished(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    """An uninterrupted evaluation of source and jpeg-q10 with none, fgsm and pgd. Read only."""
    return evaluate(settings_for(data_dir, checkpoint, tmp_path_factory.mktemp("results")))


def test_every_cell_has_one_row_per_image(finished: EvaluateResult, data_dir: Path) -> None:
    predictions = read_predictions(finished.results_dir)
    assert len(predictions) == len(finished.cells) == 2 * 3
    assert {(c.test_codec, c.test_quality, c.attack) for c, _ in predictions} == {
        (codec, quality, attack)
        for codec, quality in (("source", None), ("jpeg", 10))
        for attack in ("none", "fgsm", "pgd")
    }
    for condition, table in predictions:
        assert table["key"].to_pylist() == [f"test/{CLASSES[i % 3]}/photo{i:03d}" for i in range(NUM_TEST)]
        assert table["label"].to_pylist() == [i % 3 for i in range(NUM_TEST)]
        rows = table.to_pylist()
        assert all(row["correct"] == (row["label"] == row["prediction"]) for row in rows)
        assert condition.data_id == read_manifest(data_dir / _variant(condition)).data_id("test")
        assert (condition.dataset, condition.decoder, condition.batch_size) == ("animals", "cpu", 5)
        assert (condition.train_codec, condition.train_quality, condition.seed) == ("jpeg", "10", 0)
        assert condition.preprocessing == "none"
    by_attack = {condition.attack: condition for condition, _ in predictions}
    assert (by_attack["none"].norm, by_attack["none"].eps) == ("", 0.0)
    assert by_attack["none"].attack_settings == by_attack["fgsm"].attack_settings == "{}"
    assert by_attack["fgsm"].eps == 8 / 255
    parameters = json.loads(by_attack["pgd"].attack_settings)
    assert parameters == {"alpha": 2.5 * (8 / 255) / 3, "random_start": True, "seed": 0, "steps": 3}


def _variant(condition: Any) -> str:
    return variant_name(condition.test_codec, condition.test_quality)


def test_rows_are_those_of_a_plain_loop(finished: EvaluateResult, data_dir: Path, checkpoint: Path) -> None:
    """The same numbers from the model itself, without the fast copy and the grid."""
    model = load_checkpoint(checkpoint).model
    loader_settings = LoaderSettings(preprocessing=PREPROCESSING, batch_size=5)
    expected: dict[str, list[tuple[str, int, float]]] = {"none": [], "fgsm": [], "pgd": []}
    for number, batch in enumerate(open_loader("cpu", [data_dir / "jpeg-q10"], "test", loader_settings)):
        for name, found in expected.items():
            images = batch.images
            if name != "none":
                attack = build_attack(name, {"eps": 8 / 255, **({"steps": 3} if name == "pgd" else {})})
                images = attack.run(model, images, batch.labels, batch_seed(0, number))
            with torch.no_grad():
                logits = model(images)
            losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
            found += zip(batch.keys, logits.argmax(1).tolist(), losses.tolist(), strict=True)
    for condition, table in read_predictions(finished.results_dir):
        if condition.test_quality == 10:
            keys, predictions, losses = zip(*expected[condition.attack], strict=True)
            assert tuple(table["key"].to_pylist()) == keys
            assert tuple(table["prediction"].to_pylist()) == predictions
            assert np.allclose(table["loss"].to_numpy(), losses, rtol=0.02, atol=1e-3)


def test_attacks_raise_the_loss(finished: EvaluateResult) -> None:
    loss = {
        (condition.test_quality, condition.attack): float(np.mean(table["loss"].to_numpy()))
        for condition, table in read_predictions(finished.results_dir)
    }
    for quality in (None, 10):
        assert loss[quality, "none"] < loss[quality, "fgsm"]
        assert loss[quality, "none"] < loss[quality, "pgd"]


def test_a_second_run_does_nothing_and_says_so(
    finished: EvaluateResult, data_dir: Path, checkpoint: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.results_dir.rglob("*") if path.is_file()}
    progress = Listening()
    again = evaluate(settings_for(data_dir, checkpoint, finished.results_dir), progress)
    assert again.num_skipped == len(again.cells) == 6
    assert any("6 of 6 cells were there already" in line for line in progress.lines)
    assert before == {
        path: path.stat().st_mtime_ns for path in finished.results_dir.rglob("*") if path.is_file()
    }


def test_a_cell_does_not_depend_on_which_others_run(
    finished: EvaluateResult, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole = files_of(finished.results_dir)
    evaluate(settings_for(data_dir, checkpoint, tmp_path, attacks=("pgd",), qualities=(10,)))
    assert len(files_of(tmp_path)) == 2, "pgd and the clean pass that its success rate needs"
    more = evaluate(settings_for(data_dir, checkpoint, tmp_path))
    assert more.num_skipped == 2
    assert files_of(tmp_path) == whole


def test_each_eps_is_a_cell_of_its_own(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings_for(
        data_dir, checkpoint, tmp_path, qualities=(50,), eps=(0.0, 2 / 255, 2 / 255, 0.5), alpha=2 / 255
    )
    progress = Listening()
    result = evaluate(chosen, progress)
    assert [(c.condition.attack, c.condition.eps) for c in result.cells] == [
        ("none", 0.0),
        *((name, eps) for name in ("fgsm", "pgd") for eps in (0.0, 2 / 255, 0.5)),
    ]
    tables = {(c.attack, c.eps): t.select(["prediction", "loss"]) for c, t in read_predictions(tmp_path)}
    assert tables["fgsm", 0.0].equals(tables["none", 0.0])
    assert any("3 steps of 2/255 cannot cross a ball of radius 128/255" in line for line in progress.lines)


def test_the_seed_moves_only_attacks_that_draw(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        evaluate(settings_for(data_dir, checkpoint, tmp_path, qualities=(10,), seed=seed))
    attacks = sorted(condition.attack for condition, _ in read_predictions(tmp_path))
    assert attacks == ["fgsm", "none", "pgd", "pgd"]


def test_pictures_are_the_models_inputs(finished: EvaluateResult, data_dir: Path) -> None:
    manifest = read_manifest(data_dir / "source")
    keys = choose_keys(data_dir / "source", manifest, "test", 6)
    assert keys == choose_keys(data_dir / "jpeg-q10", read_manifest(data_dir / "jpeg-q10"), "test", 6)
    assert len(keys) == 6
    names = {f"{key.replace('/', '__')}.png" for key in keys}
    pictures: dict[tuple[int | None, str], dict[str, Any]] = {}
    for cell in finished.cells:
        folder = finished.results_dir / "samples" / cell.condition.cell_id
        assert {path.name for path in folder.glob("*.png")} == names
        index = json.loads((folder / "index.json").read_text())
        assert {row["key"] for row in index["pictures"]} == keys
        assert (index["attack"], index["test_quality"]) == (
            cell.condition.attack,
            cell.condition.test_quality,
        )
        opened = {name: np.asarray(PillowImage.open(folder / name)).astype(int) for name in names}
        pictures[cell.condition.test_quality, cell.condition.attack] = opened
    loader = open_loader("cpu", [data_dir / "jpeg-q10"], "test", LoaderSettings(preprocessing=PREPROCESSING))
    for batch in loader:
        for key, image in zip(batch.keys, batch.images, strict=True):
            if key in keys:
                seen = pictures[10, "none"][f"{key.replace('/', '__')}.png"]
                assert np.array_equal(seen, (image * 255).round().permute(1, 2, 0).numpy())
    for name in names:
        for attack in ("fgsm", "pgd"):
            difference = np.abs(pictures[10, attack][name] - pictures[10, "none"][name])
            assert 1 <= difference.max() <= 8


def test_no_two_keys_share_a_picture_name() -> None:
    parts = ("a", "/", "_", "%", "%5F", "b", ".")
    keys = {"".join(word) for length in range(1, 6) for word in itertools.product(parts, repeat=length)}
    assert len({picture_name(key) for key in keys}) == len(keys)
    assert picture_name("test/cat/photo_1") == "test__cat__photo_1.png"
    assert not any("/" in picture_name(key) for key in keys)


def test_timings_are_one_line_per_computed_cell(finished: EvaluateResult) -> None:
    lines = [json.loads(line) for line in (finished.results_dir / "timings.jsonl").read_text().splitlines()]
    assert {line["cell_id"] for line in lines} == {cell.condition.cell_id for cell in finished.cells}
    assert all(line["images_per_s"] > 0 and line["num_samples"] == NUM_TEST for line in lines)
    assert all(cell.computed and cell.images_per_s > 0 for cell in finished.cells)
    assert all(line["num_processes"] == 1 for line in lines)
    assert 0 < finished.seconds_loading + finished.seconds_computing < finished.seconds_total


def test_the_wait_for_every_batch_is_loading_the_first_one_too(
    data_dir: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CpuLoader.__iter__

    def slow(loader: CpuLoader) -> Any:
        for batch in plain(loader):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(CpuLoader, "__iter__", slow)
    result = evaluate(settings_for(data_dir, checkpoint, tmp_path, attacks=("fgsm",)))
    waits = 2 * 3 * 0.1  # two variants of three batches; the two cells of a variant share a pass
    assert waits <= result.seconds_loading < 2 * waits + 1
    assert result.seconds_computing < result.seconds_total - waits


def test_bfloat16_is_for_clean_passes(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="clean passes only"):
        settings_for(data_dir, checkpoint, tmp_path, precision="bfloat16")
    evaluate(settings_for(data_dir, checkpoint, tmp_path, precision="bfloat16", attacks=("none",)))
    evaluate(settings_for(data_dir, checkpoint, tmp_path, attacks=("none",)))
    tables = {
        (condition.precision, condition.test_quality): table["loss"].to_numpy()
        for condition, table in read_predictions(tmp_path)
    }
    assert len(tables) == 4
    assert not np.array_equal(tables["bfloat16", 10], tables["float32", 10])
    assert np.allclose(tables["bfloat16", 10], tables["float32", 10], rtol=0.1, atol=0.1)


def test_the_same_cells_are_not_computed_twice_at_once(
    data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    chosen = settings_for(data_dir, checkpoint, tmp_path, qualities=(10,))

    class Second(Progress):
        """Starts the same evaluation again while the first one is at work."""

        @contextmanager
        def stage(self, description: str, total: int | None, unit: str = "images") -> Any:
            with pytest.raises(SettingsError, match=r"the evaluation of compact .* is under way in another"):
                evaluate(chosen)
            yield lambda number: None

    evaluate(chosen, Second())
    assert len(files_of(tmp_path)) == 3
    assert not list(tmp_path.glob(".*.lock"))


def test_command_line_end_to_end(
    data_dir: Path, checkpoint: Path, finished: EvaluateResult, tmp_path: Path
) -> None:
    words = ["evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--quality", "source,10"]
    words += [
        "--attack",
        "none,fgsm,pgd",
        "--eps",
        "8/255",
        "--steps",
        "3",
        "--alpha",
        str(2.5 * (8 / 255) / 3),
    ]
    words += ["--output_dir", tmp_path, "--batch_size", "5", "--device", "cpu", "--loader", "cpu"]
    done = CliRunner().invoke(limla, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert files_of(tmp_path) == files_of(finished.results_dir)
    table = [line for line in done.stdout.splitlines() if "compact (10)" in line]
    assert len(table) == 6
    assert all(str(NUM_TEST) in line and "[" in line for line in table)
    assert "robust_accuracy" in done.stdout
    assert f"limla report {tmp_path} --data-dir {data_dir}" in done.stdout
    again = CliRunner().invoke(limla, list(map(str, words)))
    assert "6 of 6 cells were there already" in again.output


@pytest.mark.slow
def test_killed_at_random_and_resumed_the_rows_are_the_uninterrupted_runs(
    finished: EvaluateResult, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """kill -9 a real process again and again; every time the next one goes on."""
    script = "from limla.cli import main; main()"
    words = [sys.executable, "-c", script, "evaluate", "--checkpoint", str(checkpoint)]
    words += ["--data-dir", str(data_dir), "--quality", "source,10", "--attack", "fgsm,pgd", "--steps", "3"]
    words += ["--output-dir", str(tmp_path), "--batch-size", "5", "--device", "cpu", "--loader", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    chance = random.Random(0)
    kills = 0
    folder = tmp_path / "predictions"
    for wanted in (1, 4):
        with subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if len(list(folder.glob("*"))) >= wanted:
                    time.sleep(chance.uniform(0, 0.02))
                    process.send_signal(signal.SIGKILL)
                    kills += process.wait() == -signal.SIGKILL
                time.sleep(0.002)
    assert kills >= 1, "nothing was killed: the test says nothing"
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path) == files_of(finished.results_dir)
    pictures, expected = (
        {str(path.relative_to(place)): path.read_bytes() for path in (place / "samples").rglob("*.*")}
        for place in (tmp_path, finished.results_dir)
    )
    assert pictures == expected


def test_ctrl_c_leaves_finished_cells_and_no_loose_ends(
    data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    class Interrupting(Progress):
        def say(self, message: str) -> None:
            raise AssertionError(message)

        @contextmanager
        def stage(self, description: str, total: int | None, unit: str = "images") -> Any:
            def advance(number: int) -> None:
                if "jpeg-q10" in description:
                    raise KeyboardInterrupt

            yield advance

    chosen = settings_for(data_dir, checkpoint, tmp_path, attacks=("fgsm",))
    with pytest.raises(KeyboardInterrupt):
        evaluate(chosen, Interrupting())
    assert len(files_of(tmp_path)) == 2, "the cells of the first variant are complete"
    assert evaluate(chosen).num_skipped == 2


def test_batch_seeds_are_distinct_and_fixed() -> None:
    seeds = [batch_seed(seed, number) for seed in range(20) for number in range(50)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert batch_seed(0, 0) == 3065247057545751466, "rows of earlier versions would no longer come out"
