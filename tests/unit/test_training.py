"""Training: what it learns, writes, refuses, and how it stops."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torch import nn

from limla.cli import limla
from limla.errors import DataError, LimlaError, SettingsError
from limla.manifest import read_manifest
from limla.models.base import SOURCE_DATA_IDS
from limla.models.checkpoint import load_checkpoint
from limla.tasks.classification import Classification
from limla.training import TrainSettings, train
from limla.training.folder import METRIC_NAMES, State, append_line
from limla.training.passes import Totals, check_lone_samples, without_lone_samples
from limla.types import Batch, Preprocessing
from limla.world import World
from tests.toy import CLASS_NAMES, make_toy
from tests.unit.training_runs import StopError, asked, assert_equal_weights, stop_at, weights_of

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source and quality 5 of the toy dataset. 37 training images: three batches of 12 and a lone one."""
    data_dir = tmp_path_factory.mktemp("shards") / "toy"
    make_toy(data_dir)
    make_toy(data_dir, "jpeg-q5")
    return data_dir


def test_a_run_learns_and_leaves_its_files(toy: Path, tmp_path: Path) -> None:
    result = train(asked(toy, tmp_path / "out"))
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("best.pt", "classes.json", "history.csv", "info.json", "last.pt", "results.csv")
    ]
    assert json.loads((out / "classes.json").read_text()) == {"bright": 0, "dark": 1, "middle": 2}
    assert result.metrics["val_accuracy"] > 0.9
    with (out / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    losses = [float(row["val_loss"]) for row in rows]
    assert result.metrics["epoch"] == 1 + int(np.argmin(losses))
    assert result.metrics["val_loss"] == min(losses)
    info = json.loads((out / "info.json").read_text())
    assert info["finished"] is True
    assert info["best"] == result.metrics
    with (out / "results.csv").open(encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert (line["model"], line["quality"], float(line["val_loss"])) == ("compact", "source", min(losses))


def test_best_is_what_its_metrics_say_and_names_its_origin(toy: Path, tmp_path: Path) -> None:
    result = train(asked(toy, tmp_path / "out", qualities=(None, 5), codec="jpeg", seed=7))
    loaded = load_checkpoint(result.best_checkpoint)
    info = loaded.info
    assert (info.dataset, info.train_codec, info.train_quality, info.seed) == ("toy", "jpeg", "source+5", 7)
    assert info.class_names == CLASS_NAMES
    assert info.preprocessing == Preprocessing(32, "none")
    from limla.loaders.base import LoaderSettings, open_loader

    settings = LoaderSettings(info.preprocessing, batch_size=5)
    loader = open_loader("cpu", [toy / "source", toy / "jpeg-q5"], "val", settings)
    with torch.no_grad():
        judged = [Classification().judge(loaded.model(batch.images), batch.labels) for batch in loader]
        labels = torch.cat([batch.labels for batch in loader])
    loader.close()
    assert len(labels) == 22
    predictions = torch.cat([one.predictions for one in judged])
    losses = torch.cat([one.losses for one in judged])
    assert float(losses.mean()) == pytest.approx(result.metrics["val_loss"], rel=1e-4)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    found = [
        result.metrics[f"val_{name}"] for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro")
    ]
    assert found == pytest.approx([accuracy_score(labels, predictions), precision, recall, f1])


def test_equal_seeds_give_equal_weights_and_others_do_not(toy: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        torch.manual_seed(len(name))
        state = torch.get_rng_state()
        train(asked(toy, tmp_path / name, seed=seed, epochs=2, augment=True))
        assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are left alone"
    assert (tmp_path / "one" / "best.pt").read_bytes() == (tmp_path / "two" / "best.pt").read_bytes()
    one, other = weights_of(tmp_path / "one" / "last.pt"), weights_of(tmp_path / "other" / "last.pt")
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("train_pass", 1),
        ("measure_pass", 3),
        ("save_checkpoint", 1),
        ("save_checkpoint", 2),
        ("save_checkpoint", 4),
    ],
)
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(
    name: str, call: int, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(asked(toy, tmp_path / "whole", epochs=4, augment=True))
    with monkeypatch.context() as patch:
        stop_at(patch, name, call)
        with pytest.raises(StopError):
            train(asked(toy, tmp_path / "cut", epochs=4, augment=True))
    result = train(asked(toy, tmp_path / "cut", epochs=4, augment=True))
    assert result.metrics == whole.metrics
    assert_equal_weights(tmp_path / "whole" / "last.pt", tmp_path / "cut" / "last.pt")
    assert (tmp_path / "whole" / "best.pt").read_bytes() == (tmp_path / "cut" / "best.pt").read_bytes()


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(toy: Path, tmp_path: Path) -> None:
    first = train(asked(toy, tmp_path / "out", epochs=1))
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    assert train(asked(toy, tmp_path / "out", epochs=1)) == first
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == files
    with pytest.raises(SettingsError, match=r"learning-rate: 0\.001 there, 0\.1 asked for"):
        train(asked(toy, tmp_path / "out", epochs=1, learning_rate=0.1))
    (tmp_path / "out" / "best.pt").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"best\.pt: missing or altered"):
        train(asked(toy, tmp_path / "out", epochs=1))


def test_a_strangers_checkpoint_is_not_overwritten(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"precious")
    with pytest.raises(SettingsError, match=r"holds a best\.pt but no info\.json"):
        train(asked(toy, tmp_path))
    assert (tmp_path / "best.pt").read_bytes() == b"precious"


def test_early_stopping_counts_epochs_without_a_clear_gain() -> None:
    settings = TrainSettings(Path("x"), Path("y"), patience=2, epochs=9, min_delta=0.1)
    state, best = State(), []
    for epoch, loss in enumerate([1.0, 0.8, 0.75, 0.9], start=1):
        assert not state.is_over(settings)
        best.append(state.record({"epoch": epoch, "val_loss": loss}, settings.min_delta))
    assert state.is_over(settings)
    assert best == [True, True, True, False]
    assert (state.best_epoch, state.best_loss, state.epochs_without) == (3, 0.75, 2)


def test_training_stops_early_and_says_so(toy: Path, tmp_path: Path) -> None:
    result = train(asked(toy, tmp_path / "out", epochs=30, patience=1, min_delta=5.0))
    assert result.epochs_run == 2, "the first epoch always counts, the second gains less than 5 nats"


def test_the_test_split_is_never_opened(toy: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "shards"
    make_toy(data_dir)
    for path in (data_dir / "source").glob("test-*"):
        path.unlink()
    assert train(asked(data_dir, tmp_path / "out", epochs=1)).epochs_run == 1


def test_a_frozen_backbone_keeps_its_weights_and_statistics(toy: Path, tmp_path: Path) -> None:
    train(asked(toy, tmp_path / "first", epochs=1))
    start = tmp_path / "first" / "last.pt"
    train(asked(toy, tmp_path / "head", epochs=2, weights=start, freeze_backbone=True))
    before, after = weights_of(start), weights_of(tmp_path / "head" / "last.pt")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"backbone.15.weight", "backbone.15.bias"}


def batches(*sizes: int) -> Iterator[Batch]:
    first = 0
    for size in sizes:
        keys = tuple(str(number) for number in range(first, first + size))
        values = torch.arange(first, first + size)
        yield Batch(keys, values.float().view(-1, 1, 1, 1).expand(size, 3, 2, 2), values)
        first += size


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((4, 4, 1), [4, 5]), ((4, 4, 2), [4, 4, 2]), ((4,), [4]), ((1,), [1]), ((1, 1, 1), [1, 1, 1]), ((), [])],
)
def test_a_lone_last_image_joins_the_batch_before(sizes: tuple[int, ...], expected: list[int]) -> None:
    made = list(without_lone_samples(batches(*sizes)))
    assert [len(batch.keys) for batch in made] == [len(batch.labels) for batch in made] == expected
    labels = [label for batch in made for label in batch.labels.tolist()]
    assert labels == list(range(sum(sizes)))
    assert [label for batch in made for label in batch.images[:, 0, 0, 0].tolist()] == labels


def test_batch_norm_with_one_image_is_said_before_training() -> None:
    with pytest.raises(SettingsError, match="batch size 1"):
        check_lone_samples(nn.BatchNorm2d(3), 10, 1)
    with pytest.raises(DataError, match="one training image"):
        check_lone_samples(nn.BatchNorm2d(3), 1, 8)
    check_lone_samples(nn.Conv2d(3, 3, 1), 1, 1)


def test_totals_are_those_of_the_whole_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(23, 4, generator=generator), torch.randint(4, (23,), generator=generator)
    task, found = Classification(), []
    for size in (23, 5, 1):
        totals = Totals(4, torch.device("cpu"))
        for start in range(0, 23, size):
            part = slice(start, start + size)
            totals.add(task.judge(logits[part], labels[part]), labels[part])
        found.append(totals.metrics(ALONE, "x_"))
        assert totals.num_samples(ALONE) == 23
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)
    assert found[0]["x_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(LimlaError, match=r"diverged.*lower --learning-rate"):
        train(asked(toy, tmp_path / "out", learning_rate=1e30))
    assert not (tmp_path / "out" / "best.pt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs 0 is out of range"),
        ({"batch_size": 1}, "batch size 1"),
        ({"learning_rate": -1.0}, "learning rate -1"),
        ({"patience": 0}, "patience 0"),
        ({"qualities": (50,)}, "jpeg-q50: no such shard folder; there: source, jpeg-q5"),
        ({"codec": "jpg"}, "unknown codec 'jpg'"),
        ({"loader": "tape"}, "unknown loader 'tape'"),
        ({"model": "mobilnet"}, "unknown model 'mobilnet'"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"amp": True}, "amp .* needs a GPU"),
        ({"weights": "absent.pth"}, "absent.pth: no such file"),
        ({"model": "alexnet"}, "32x32 pixels"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    changes: dict[str, Any], message: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(LimlaError, match=message):
        train(asked(toy, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_missing_val_split_says_how_to_get_one(tmp_path: Path) -> None:
    make_toy(tmp_path / "shards", counts={"train": 6, "test": 3})
    with pytest.raises(DataError, match=r"no images in the split 'val'.*--val 0\.1"):
        train(asked(tmp_path / "shards", tmp_path / "out"))


def test_two_runs_share_a_table(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for line in ({"run": "a", "loss": 1.5}, {"run": "b", "loss": 2.5}, {"run": "a", "loss": 1.0}):
        append_line(path, line, same=("run",))
    assert path.read_text() == "run,loss\nb,2.5\na,1.0\n"
    with pytest.raises(DataError, match="not a table of training runs"):
        append_line(path, {"other": 1}, same=("other",))


def test_a_table_of_something_else_is_said_before_the_first_epoch(toy: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("name,price\n")
    with pytest.raises(DataError, match=r"results\.csv: not a table of training runs"):
        train(asked(toy, tmp_path / "out", results_csv=table))
    assert not (tmp_path / "out").exists()
    assert table.read_text() == "name,price\n"


def test_a_checkpoint_records_the_packing_it_learned_from(toy: Path, tmp_path: Path) -> None:
    for number, qualities in enumerate(((None,), (5,))):
        result = train(asked(toy, tmp_path / str(number), epochs=1, qualities=qualities))
        recorded = load_checkpoint(result.best_checkpoint).info.extra[SOURCE_DATA_IDS]
        assert recorded == {
            split: read_manifest(toy / "source").data_id(split) for split in ("train", "val", "test")
        }


def test_a_variant_of_another_packing_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "shards"
    make_toy(data_dir)
    make_toy(data_dir, "jpeg-q5")
    make_toy(data_dir, counts={"train": 11, "val": 37, "test": 8})
    for qualities in ((5,), (None, 5)):
        with pytest.raises(DataError, match=r"jpeg-q5: re-encoded from another packing.*limla reencode"):
            train(asked(data_dir, tmp_path / "out", qualities=qualities))
    assert not (tmp_path / "out").exists()


def test_weights_of_a_checkpoint_bring_their_normalisation(toy: Path, tmp_path: Path) -> None:
    mean, std = (0.5, 0.25, 0.125), (1.0, 0.5, 0.25)
    first = train(asked(toy, tmp_path / "first", epochs=1, mean=mean, std=std)).best_checkpoint
    for name, given, expected in (("taken", None, mean), ("given", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))):
        result = train(asked(toy, tmp_path / name, epochs=1, weights=first, mean=given))
        info = load_checkpoint(result.best_checkpoint).info
        assert (info.mean, info.std) == (expected, std)


def test_tensorboard_events_hold_the_history(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="optional")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(asked(toy, tmp_path / "out", epochs=2, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/val")] == [1, 2]
    assert min(event.value for event in events.Scalars("loss/val")) == pytest.approx(result.metrics["val_loss"])


def test_the_command_takes_both_spellings_and_names_the_next_one(toy: Path, tmp_path: Path) -> None:
    words = [
        *("train", "--data_dir", toy, "--codec", "jpeg", "--quality", "5", "--model", "compact", "--epochs", 1),
        *("--batch_size", 12, "--learning-rate", 0.001, "--patience", 5, "--output_dir", tmp_path / "out"),
        *("--image_size", 32, "--resize", "none", "--device", "cpu", "--mean", "0.5,0.5,0.5", "--std", "1,1,1"),
    ]
    done = CliRunner().invoke(limla, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert f"checkpoint: {tmp_path / 'out' / 'best.pt'}" in done.stdout
    assert "next: limla evaluate --checkpoint" in done.stdout
    assert "epoch 1/1: train loss" in done.stderr
    info = load_checkpoint(tmp_path / "out" / "best.pt").info
    assert (info.train_codec, info.train_quality, info.mean) == ("jpeg", "5", (0.5, 0.5, 0.5))
    again = CliRunner().invoke(limla, [str(word) for word in words])
    assert "finished already" in again.stderr
    assert f"val_{METRIC_NAMES[0]}" not in again.stdout
    wrong = CliRunner().invoke(limla, [*map(str, words), "--mean", "0.5"])
    assert (wrong.exit_code, "three numbers" in wrong.stderr) == (2, True)


def test_every_help_line_is_in_a_group() -> None:
    done = CliRunner().invoke(limla, ["train", "--help"], terminal_width=200)
    for title in ("Data:", "Model:", "Training:", "Output:"):
        assert title in done.output
    other = done.output.split("Other:")[1].split()
    assert [word for word in other if word.startswith("--")] == ["--help"]


def test_toy_is_what_the_tests_say(toy: Path) -> None:
    assert read_manifest(toy / "source").num_samples("train") % 12 == 1, "the last batch is a lone image"
