"""Random quality per image and adversarial training: what the model sees, what is recorded, how it goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from limla.attacks.base import build_attack
from limla.cli import limla
from limla.errors import LimlaError, SettingsError
from limla.loaders.base import LoaderSettings, Reencoding, open_loader
from limla.models.checkpoint import load_checkpoint
from limla.plans import AttackPlan, parse_attack
from limla.progress import Progress
from limla.tasks.classification import Classification
from limla.training import TrainSettings, train
from limla.training.adversary import Adversary
from limla.types import Batch
from tests.toy import make_toy
from tests.unit.training_runs import StopError, asked, assert_equal_weights, stop_at, weights_of
from tests.variants import Member, encode, write_variant

FGSM = parse_attack("fgsm:eps=4/255")
PGD = parse_attack("pgd:eps=8/255,steps=4,alpha=3/255")
BOTH = {"random_qualities": (5, 20, 60), "adversary": parse_attack("pgd:eps=2/255,steps=2,alpha=1/255")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("shards") / "toy"
    make_toy(data_dir)
    return data_dir


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes told apart by faint stripes always, and by a strong patch nine times out of ten.

    A model that learns the stripes is always right, until an attack of their strength turns them round (Tsipras
    et al., "Robustness may be at odds with accuracy", ICLR 2019).
    """
    data_dir = tmp_path_factory.mktemp("shards") / "brittle"
    splits = {
        split: [[_striped(split, number) for number in range(count)]]
        for split, count in {"train": 160, "val": 40, "test": 60}.items()
    }
    write_variant(data_dir / "source", splits, class_names=("a", "b"))
    return data_dir


def _striped(split: str, number: int, side: int = 16) -> Member:
    generator = np.random.default_rng((len(split), number))
    sign = 2 * (number % 2) - 1
    image = 128 + generator.normal(0, 15, (side, side, 3))
    image += 5 * sign * np.where(np.arange(side) % 2, -1, 1)[:, None, None]
    image[: side // 2] += 40 * sign * (1 if generator.random() < 0.9 else -1)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Member(f"{split}-{number}", encode(pixels, "png"), "png", str(number % 2).encode(), side, side)


def batch_of(data_dir: Path, split: str, checkpoint: Path, reencoding: Reencoding | None = None) -> Batch:
    """A whole split as the checkpoint's model wants it."""
    preprocessing = load_checkpoint(checkpoint).info.preprocessing
    settings = LoaderSettings(preprocessing, batch_size=1000, reencoding=reencoding)
    (batch,) = open_loader("cpu", [data_dir / "source"], split, settings)
    return batch


def measured(checkpoint: Path, batch: Batch, attack: AttackPlan | None = None) -> tuple[float, float]:
    """(mean loss, accuracy) of a checkpoint on a batch, attacked or not."""
    model, images = load_checkpoint(checkpoint).model, batch.images
    if attack is not None:
        images = build_attack(attack.name, dict(attack.parameters)).run(model, images, batch.labels, seed=9)
    with torch.no_grad():
        judged = Classification().judge(model(images), batch.labels)
    return float(judged.losses.mean()), float(judged.correct.float().mean())


def test_adversarial_training_resists_an_attack_that_breaks_standard_training(
    brittle: Path, tmp_path: Path
) -> None:
    strong = parse_attack("pgd:eps=8/255,steps=20,alpha=1/255")
    found: dict[str, tuple[float, float]] = {}
    for name, adversary in (("standard", None), ("adversarial", PGD)):
        best = train(asked(brittle, tmp_path / name, epochs=6, adversary=adversary)).best_checkpoint
        test = batch_of(brittle, "test", best)
        found[name] = measured(best, test)[1], measured(best, test, strong)[1]
    assert found["standard"][0] > 0.95
    assert found["standard"][1] < 0.3
    assert found["adversarial"][1] > 0.7
    assert found["adversarial"][0] > 0.7


def test_the_robust_loss_decides_and_both_are_recorded(brittle: Path, tmp_path: Path) -> None:
    # fgsm has no random start, so its val loss can be computed again
    result = train(asked(brittle, tmp_path / "out", adversary=FGSM))
    with (tmp_path / "out" / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val_robust_loss"]) for row in rows]
    assert result.metrics["epoch"] == 1 + int(np.argmin(losses))
    best, val = result.best_checkpoint, batch_of(brittle, "val", result.best_checkpoint)
    found = [result.metrics[name] for name in ("val_robust_loss", "val_robust_accuracy")]
    assert found == pytest.approx(measured(best, val, FGSM), rel=1e-3)
    found = [result.metrics[name] for name in ("val_loss", "val_accuracy")]
    assert found == pytest.approx(measured(best, val), rel=1e-3)
    assert result.metrics["val_robust_loss"] > result.metrics["val_loss"]
    info = load_checkpoint(best).info
    assert info.train_method == "fgsm linf eps=4/255"
    assert (info.train_codec, info.train_quality) == ("source", "source")
    assert info.extra["adversary"] == {"name": "fgsm", "norm": "linf", "eps": 4 / 255}
    assert info.extra["val_robust_loss"] == result.metrics["val_robust_loss"]
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert line["method"] == info.train_method
    assert float(line["val_robust_accuracy"]) == result.metrics["val_robust_accuracy"]


def test_random_qualities_are_seen_in_training_and_fixed_in_validation(toy: Path, tmp_path: Path) -> None:
    standard = train(asked(toy, tmp_path / "standard", epochs=1))
    result = train(asked(toy, tmp_path / "random", epochs=1, random_qualities=(60, None, 3)))
    one, other = (weights_of(run.best_checkpoint) for run in (standard, result))
    assert any(not torch.equal(one[key], other[key]) for key in one)
    best = result.best_checkpoint
    drawn = batch_of(toy, "val", best, Reencoding("jpeg", (None, 3, 60)))
    assert measured(best, drawn)[0] == pytest.approx(result.metrics["val_loss"], rel=1e-4)
    assert measured(best, batch_of(toy, "val", best))[0] != pytest.approx(result.metrics["val_loss"], rel=1e-3)
    info = load_checkpoint(best).info
    assert info.train_method == "random jpeg quality 3,60,source"
    assert (info.train_codec, info.train_quality) == ("source", "source")
    assert info.extra["random_quality"]["qualities"] == [None, 3, 60]
    assert info.extra["random_quality"]["version"].startswith("simplejpeg ")


@pytest.mark.parametrize(("name", "call"), [("train_pass", 2), ("measure_pass", 2), ("save_checkpoint", 3)])
def test_stopped_and_run_again_nothing_differs_for_any_number_of_threads(
    name: str, call: int, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {**BOTH, "augment": True, "epochs": 3}
    whole = train(asked(toy, tmp_path / "whole", **settings))
    with monkeypatch.context() as patch:
        stop_at(patch, name, call)
        with pytest.raises(StopError):
            train(asked(toy, tmp_path / "cut", num_threads=3, **settings))
    result = train(asked(toy, tmp_path / "cut", num_threads=3, **settings))
    assert result.metrics == whole.metrics
    assert_equal_weights(tmp_path / "whole" / "last.pt", tmp_path / "cut" / "last.pt")
    assert whole.best_checkpoint.read_bytes() == result.best_checkpoint.read_bytes()


def test_attacks_start_anew_for_each_batch_epoch_and_process(toy: Path, tmp_path: Path) -> None:
    best = train(asked(toy, tmp_path / "out", epochs=1)).best_checkpoint
    model, batch = load_checkpoint(best).model, batch_of(toy, "val", best)
    model.train()

    def images(rank: int = 0, world_size: int = 1, seed: int = 0, **place: int) -> torch.Tensor:
        adversary = Adversary(PGD, seed, rank, world_size)
        if "epoch" in place:
            return adversary.in_training(model, batch, **place).images
        return adversary.in_validation(model, batch, **place).images

    first = images(epoch=1, number=0)
    assert torch.equal(images(epoch=1, number=0), first)
    assert (first - batch.images).abs().max() <= 8 / 255 + 1e-6
    for other in (images(epoch=2, number=0), images(epoch=1, number=1), images(rank=1, epoch=1, number=0)):
        assert not torch.equal(other, first)
    assert not torch.equal(images(seed=1, epoch=1, number=0), first)
    # val batch 5 of one process is the second's third of two
    assert torch.equal(images(number=5), images(rank=1, world_size=2, number=2))
    assert all(module.training for module in model.modules()), "the model is left as it was"


def test_another_method_in_the_same_folder_is_refused_and_old_folders_are_not(
    toy: Path, tmp_path: Path
) -> None:
    standard, attacked = tmp_path / "standard", tmp_path / "attacked"
    train(asked(toy, standard, epochs=1))
    settings = json.loads((standard / "info.json").read_text())["settings"]
    assert not {"adversary", "random-quality"} & settings.keys(), "runs from before they were known have none"
    train(asked(toy, attacked, epochs=1, adversary=FGSM))
    with pytest.raises(SettingsError, match=r"adversary: None there, 'fgsm linf eps=4/255' asked for"):
        train(asked(toy, standard, epochs=1, adversary=FGSM))
    with pytest.raises(SettingsError, match=r"adversary: 'fgsm linf eps=4/255' there, None asked for"):
        train(asked(toy, attacked, epochs=1))
    with pytest.raises(SettingsError, match=r"random-quality: None there, .*'qualities': '5,50'"):
        train(asked(toy, standard, epochs=1, random_qualities=(50, 5)))


def test_a_table_from_before_there_were_methods_takes_new_lines(toy: Path, tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    train(asked(toy, tmp_path / "one", epochs=1, results_csv=table))
    with table.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    width = rows[0].index("checkpoint") + 1
    table.write_text("".join(",".join(row[:width]) + "\n" for row in rows))
    train(asked(toy, tmp_path / "two", epochs=1, adversary=FGSM, results_csv=table))
    with table.open(encoding="utf-8") as file:
        old, new = csv.DictReader(file)
    assert (old["method"], old["val_robust_loss"]) == ("standard", "")
    assert (new["method"], float(new["val_robust_loss"]) > 0) == ("fgsm linf eps=4/255", True)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "standard"),
        ({"random_qualities": (30, 10, 20)}, "random jpeg quality 10-30:10"),
        ({"random_qualities": (*range(100, 0, -1), None)}, "random jpeg quality 1-100,source"),
        ({"random_qualities": (90, 10)}, "random jpeg quality 10,90"),
        (
            {"adversary": AttackPlan("pgd", (("steps", 5), ("eps", 4 / 255)))},
            "pgd linf eps=4/255 steps=5 alpha=2/255",
        ),
        (
            {"adversary": parse_attack("pgd:eps=0.5,norm=l2,steps=5,alpha=0.25,restarts=2")},
            "pgd l2 eps=0.5 steps=5 alpha=0.25 restarts=2",
        ),
        (
            {"random_qualities": (5, 50), "adversary": parse_attack("pgd:eps=2/255,alpha=0.5/255")},
            "random jpeg quality 5,50 + pgd linf eps=2/255 steps=10 alpha=0.5/255",
        ),
    ],
)
def test_the_method_is_said_in_one_way(changes: dict[str, Any], method: str) -> None:
    assert TrainSettings(Path("x"), Path("y"), **changes).train_method == method


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_qualities": (50,)}, r"random quality 50 leaves nothing to draw.*--quality 50"),
        ({"random_qualities": (None,)}, "leaves nothing to draw"),
        ({"random_qualities": (5, 5, 50)}, "named twice"),
        ({"random_qualities": (5, 101)}, "quality 101 is out of range"),
        ({"random_qualities": (5, 50), "qualities": (5,)}, "drawn from the originals, not from quality 5"),
        ({"random_qualities": (5, 50), "codec": "jpg"}, "unknown codec 'jpg'"),
        ({"random_qualities": (5, 50), "codec": "source"}, "name the codec"),
        ({"adversary": AttackPlan("none")}, "attacks nothing"),
        ({"adversary": AttackPlan("fgsm", (("eps", 0.0),))}, "eps 0 changes nothing"),
        ({"adversary": AttackPlan("pgd")}, "needs eps"),
        ({"adversary": AttackPlan("pgd", (("eps", 2.0),))}, "eps 2 .*out of range"),
        ({"adversary": AttackPlan("fgsm", (("eps", 0.1), ("steps", 3)))}, "takes no steps"),
        ({"adversary": FGSM, "model": f"{__name__}:deaf"}, "does not depend differentiably"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    changes: dict[str, Any], message: str, toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(LimlaError, match=message):
        train(asked(toy, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


class _Listening(Progress):
    """Keeps what is said, and stops the run where the first epoch begins."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def stage(self, description: str, total: int | None, unit: str = "images") -> Any:
        raise StopError


@pytest.mark.parametrize(("alpha", "is_told"), [("1/255", True), ("2/255", False)])
def test_an_adversary_that_cannot_cross_its_ball_is_told(
    toy: Path, tmp_path: Path, alpha: str, is_told: bool
) -> None:
    adversary = parse_attack(f"pgd:eps=4/255,steps=2,alpha={alpha}")
    heard = _Listening()
    with pytest.raises(StopError):
        train(asked(toy, tmp_path / "out", adversary=adversary), heard)
    assert any("cannot cross a ball of radius 4/255" in line for line in heard.said) == is_told


def deaf(num_classes: int) -> torch.nn.Module:
    """A model that rounds what it sees: it learns, and has no gradient of its images."""

    class Rounds(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.detach().mean(dim=(2, 3))

    return torch.nn.Sequential(Rounds(), torch.nn.Linear(3, num_classes))


def test_a_model_that_diverges_under_attack_ends_the_run_with_a_remedy(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(LimlaError, match=r"training diverged.*lower --learning-rate"):
        train(asked(toy, tmp_path / "out", learning_rate=1e30, adversary=FGSM))


def test_the_command_takes_both_and_says_what_is_next(toy: Path, tmp_path: Path) -> None:
    words = [
        *("train", "--data-dir", toy, "--output-dir", tmp_path / "out", "--model", "compact", "--epochs", 1),
        *("--image-size", 32, "--resize", "none", "--batch-size", 12, "--device", "cpu"),
        *("--random-quality", "10-90:40,source", "--adversary", "pgd:eps=2/255,steps=1,alpha=2/255"),
    ]
    done = CliRunner().invoke(limla, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "attacked loss" in done.stderr
    assert "val  attacked: loss" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert "--attack none --attack pgd:eps=2/255,steps=1,alpha=2/255" in last
    assert "--quality" not in last
    info = load_checkpoint(tmp_path / "out" / "best.pt").info
    assert info.train_method == "random jpeg quality 10-90:40,source + pgd linf eps=2/255 steps=1 alpha=2/255"
    for option, value, message in (
        ("--random-quality", "10-", "'10-' is not a quality"),
        ("--random-quality", "50", "leaves nothing to draw"),
        ("--adversary", "pdg:eps=1/255", "unknown attack 'pdg'"),
        ("--adversary", "pgd:eps", "'eps' is not name=value"),
    ):
        wrong = CliRunner().invoke(limla, [*map(str, words), option, value])
        assert (wrong.exit_code, message in wrong.stderr) == (2, True), wrong.stderr
        assert wrong.stderr.strip().count("\n") == 0
