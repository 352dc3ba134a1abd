"""`limla breakdown`: the chain is evaluated, pooled over seeds, kept, and shown."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from limla.analysis.breakdown import breakdowns
from limla.breakdown import BreakdownSettings, break_down
from limla.cli import limla
from limla.cli.breakdown import _show
from limla.errors import SettingsError
from limla.models.base import SOURCE_DATA_IDS
from limla.plans import parse_attack
from limla.results import Condition, read_predictions
from limla.types import Preprocessing
from tests.listening import Listening
from tests.toy import source_ids
from tests.unit.animals import NUM_TEST, data_dir, files_of, write_checkpoint
from tests.unit.cells import cell, evidence, images

__all__ = ["data_dir"]  # fixture

CROP = Preprocessing(image_size=16, resize_shorter=18)
OWN_SIZE = Preprocessing(image_size=24, resize="none")


def checkpoint_for(path: Path, data_dir: Path, seed: int, preprocessing: Preprocessing = CROP) -> Path:
    known = {"dataset": "animals", "extra": {SOURCE_DATA_IDS: source_ids(data_dir)}}
    return write_checkpoint(path, seed, preprocessing=preprocessing, **known)


@pytest.fixture(scope="module")
def checkpoints(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two models of one training condition, seeds 0 and 1; their images are resized."""
    folder = tmp_path_factory.mktemp("models")
    return tuple(checkpoint_for(folder / f"{seed}.pt", data_dir, seed) for seed in (0, 1))


def settings_for(
    data_dir: Path, results_dir: Path, checkpoints: tuple[Path, ...], **changes: Any
) -> BreakdownSettings:
    usual: dict[str, Any] = {"quality": 10, "attack": parse_attack("fgsm:eps=8/255"), "batch_size": 5}
    return BreakdownSettings(data_dir, results_dir, checkpoints, device="cpu", **{**usual, **changes})


def test_the_chain_differs_by_one_step_each_and_pools_the_seeds(
    data_dir: Path, checkpoints: tuple[Path, ...], tmp_path: Path
) -> None:
    (chain,) = break_down(settings_for(data_dir, tmp_path, checkpoints))
    cells = read_predictions(tmp_path)
    places = [
        (None, "cpu", "shorter18-crop16", "none"),
        (None, "cpu-fast", "shorter18-crop16", "none"),
        (None, "cpu-fast", "shorter18-crop16-aliased", "none"),
        (10, "cpu-fast", "shorter18-crop16-aliased", "none"),
        (10, "cpu-fast", "shorter18-crop16-aliased", "fgsm"),
    ]
    assert {_place(condition) for condition, _ in cells} == set(places)
    assert len(cells) == 2 * len(places)
    assert chain.seeds == (0, 1)
    assert chain.num_images == NUM_TEST
    assert len(chain.steps) == len(places)
    losses: list[list[float]] = []
    for step, place in zip(chain.steps, places, strict=True):
        tables = [
            table
            for condition, table in sorted(cells, key=lambda cell: cell[0].seed)
            if _place(condition) == place
        ]
        right = np.concatenate([table["correct"].to_numpy() for table in tables])
        assert step.accuracy == pytest.approx(right.mean())
        losses.append(tables[0]["loss"].to_pylist())
    for before, after in itertools.pairwise(losses):
        assert before != after, "every step changes what the model sees"
    assert sum(losses[-1]) > sum(losses[-2]), "the attack raises the loss"


def _place(condition: Condition) -> tuple[object, ...]:
    return condition.test_quality, condition.decoder, condition.preprocessing, condition.attack


def test_a_second_run_computes_nothing_and_gives_the_same(
    data_dir: Path, checkpoints: tuple[Path, ...], tmp_path: Path
) -> None:
    settings = settings_for(data_dir, tmp_path, checkpoints[:1])
    first, before = break_down(settings), files_of(tmp_path)
    table = (tmp_path / "breakdown.csv").read_bytes()
    # as if a kill had hit between two steps
    next(iter((tmp_path / "predictions").iterdir())).unlink()
    assert break_down(settings) == first
    assert files_of(tmp_path) == before
    progress = Listening()
    assert break_down(settings, progress) == first
    assert (tmp_path / "breakdown.csv").read_bytes() == table
    assert any("cells were there already" in line for line in progress.lines)
    assert len(progress.lines) == len(set(progress.lines)), "nothing is said twice"


def test_another_quality_joins_the_rows_but_not_the_answer(
    data_dir: Path, checkpoints: tuple[Path, ...], tmp_path: Path
) -> None:
    break_down(settings_for(data_dir, tmp_path, checkpoints[:1]))
    (chain,) = break_down(settings_for(data_dir, tmp_path, checkpoints[:1], quality=50, attack=None))
    assert [step.text for step in chain.steps][-1] == "jpeg q50"
    assert len(files_of(tmp_path)) == 5 + 1


def test_models_that_take_images_at_their_own_size_have_no_resizing(data_dir: Path, tmp_path: Path) -> None:
    own = checkpoint_for(tmp_path / "own.pt", data_dir, 0, OWN_SIZE)
    (chain,) = break_down(settings_for(data_dir, tmp_path / "out", (own,)))
    assert [step.kind for step in chain.steps] == ["source", "decoder", "codec", "attack"]
    other = checkpoint_for(tmp_path / "other.pt", data_dir, 0)
    both = break_down(settings_for(data_dir, tmp_path / "out", (own, other)))
    assert sorted(len(one.steps) for one in both) == [4, 5]


def test_the_command_prints_the_table(data_dir: Path, checkpoints: tuple[Path, ...], tmp_path: Path) -> None:
    words = ["breakdown", "--data-dir", data_dir, "--quality", 10, "--attack", "pgd:steps=2", "--eps", "8/255"]
    words += [word for path in checkpoints for word in ("--checkpoint", path)]
    words += ["--output-dir", tmp_path, "--batch-size", 5, "--device", "cpu"]
    done = CliRunner().invoke(limla, list(map(str, words)))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"compact · jpeg q10, 2 seeds, {NUM_TEST} images of animals test"
    steps = ["originals, as limla", "fast decoder", "resize without", "jpeg q10", "PGD-2, ε = 8/255", "in all"]
    assert [line.startswith(start) for line, start in zip(lines[2:8], steps, strict=True)] == [True] * 6
    assert all("[" in line for line in lines[3:8])
    with (tmp_path / "breakdown.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert pq.read_table(tmp_path / "breakdown.parquet")["kind"].to_pylist() == [row["kind"] for row in rows]
    for row, line in zip(rows, lines[2:7], strict=True):
        assert f" {float(row['accuracy']):.3f}" in line


def test_seeds_that_differ_are_told_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [
        cell(
            quality,
            "1" * right + "0" * (60 - right),
            keys=images(60),
            seed=seed,
            decoder=decoder,
            preprocessing="none",
        )
        for seed, lost in ((0, 2), (1, 50))
        for quality, right, decoder in ((None, 55, "cpu"), (None, 55, "cpu-fast"), (10, 55 - lost, "cpu-fast"))
    ]
    for made, is_told in ((cells, True), (cells[:3], False)):
        (chain,) = breakdowns(evidence(*made))
        _show(chain)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("where the 2 seeds differ, an interval is about other trainings") == is_told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--quality", "30"], "has no jpeg-q30; there: source"),
        (["--attack", "pgd:speed=3"], "takes no speed"),
        (["--eps", "8/255"], "--eps is given, but no --attack"),
        (["--attack", "nosuch"], "unknown attack 'nosuch'"),
        (["--split", "exam"], "unknown split 'exam'"),
    ],
)
def test_mistakes_are_said_in_one_line_before_any_work(
    data_dir: Path, checkpoints: tuple[Path, ...], tmp_path: Path, changes: list[str], message: str
) -> None:
    words = ["breakdown", "--data-dir", data_dir, "--checkpoint", checkpoints[0], "--quality", "10"]
    words += ["--output-dir", tmp_path / "out", "--device", "cpu", *changes]
    done = CliRunner().invoke(limla, list(map(str, words)))
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_no_checkpoint_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="name a checkpoint"):
        BreakdownSettings(data_dir, tmp_path, (), 10)
