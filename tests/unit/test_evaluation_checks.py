"""Evaluation: what is refused before any work or instead of a row, and users' own models."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import DataError, LimlaError, SettingsError, UnknownNameError
from limla.evaluation import UserModel, evaluate
from limla.models.base import SOURCE_DATA_IDS, ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.shards import shard_name
from tests.listening import Listening
from tests.unit.animals import (
    CLASSES,
    PREPROCESSING,
    checkpoint,
    data_dir,
    settings_for,
    write_checkpoint,
    write_variant,
)

__all__ = ["checkpoint", "data_dir"]  # fixtures


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ("pdg",)}, UnknownNameError, "unknown attack 'pdg'; known: none, uniform-noise"),
        ({"attacks": ()}, SettingsError, "at least one"),
        ({"qualities": ()}, SettingsError, "at least one"),
        ({"qualities": (10, 77)}, SettingsError, "no jpeg-q77; there: source, jpeg-q10, jpeg-q50"),
        ({"codec": "jepg"}, UnknownNameError, "unknown codec"),
        ({"loader": "gpu"}, UnknownNameError, "unknown loader"),
        ({"split": "dev"}, SettingsError, "unknown split 'dev'; known: train, val, test"),
        ({"split": "val"}, DataError, "split 'val' is empty; splits with images: train, test"),
        ({"eps": ()}, SettingsError, "attack 'fgsm' needs eps"),
        ({"eps": (8.0,)}, SettingsError, "eps 8 "),
        ({"steps": 0}, SettingsError, "0 steps"),
        ({"alpha": -1.0}, SettingsError, "alpha -1 "),
        ({"batch_size": 0}, SettingsError, "batch size 0"),
        ({"device": "tpu9"}, SettingsError, "device 'tpu9'"),
        ({"device": "cuda:99"}, SettingsError, "device 'cuda:99' is not there"),
        ({"precision": "float8"}, SettingsError, "unknown precision"),
        ({"checkpoints": ()}, SettingsError, "no model to evaluate"),
        ({"checkpoints": (Path("absent.pt"),)}, LimlaError, "absent.pt"),
        ({"data_dir": Path("nowhere")}, DataError, "nowhere: no shards here"),
    ],
)
def test_mistakes_are_found_before_any_work(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    data_dir: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(replace(settings_for(data_dir, checkpoint, tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (("dog", "cat", "emu"), "another order .class 0 is 'dog' in the model and 'cat' in the data"),
        (("cat", "dog", "fox"), "only in the model: fox; only in the data: emu"),
    ],
)
def test_class_names_must_be_the_datas(
    class_names: tuple[str, ...], message: str, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    wrong = write_checkpoint(tmp_path / "wrong.pt", class_names=class_names)
    both = settings_for(data_dir, checkpoint, tmp_path / "out", checkpoints=(checkpoint, wrong))
    with pytest.raises(SettingsError, match=message):
        evaluate(both)
    assert not (tmp_path / "out").exists(), "the good checkpoint was not evaluated first"


def repack(data_dir: Path) -> None:
    """As packing the photos again with another seed: the same dataset, other splits."""
    path = data_dir / "source" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"].reverse()
    path.write_text(json.dumps(manifest))


def test_a_variant_of_another_packing_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "animals"
    for quality in (None, 10, 50):
        write_variant(data_dir, quality)
    repack(data_dir)
    both = settings_for(data_dir, checkpoint, tmp_path / "out", qualities=(10, 50))
    with pytest.raises(DataError, match=r"jpeg-q10: re-encoded from another packing .*limla reencode"):
        evaluate(both)
    write_variant(data_dir, 10)
    (data_dir / "source" / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"jpeg-q50: re-encoded from another packing than that of .*jpeg-q10"):
        evaluate(both)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_packing_is_refused(data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = dict.fromkeys(("train", "test"), "0" * 16)
    leaking = write_checkpoint(tmp_path / "other.pt", dataset="animals", extra={SOURCE_DATA_IDS: other})
    with pytest.raises(SettingsError, match=r"other\.pt: trained on another packing of 'animals'"):
        evaluate(settings_for(data_dir, checkpoint, tmp_path / "out", checkpoints=(checkpoint, leaking)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "animals"}, "best.pt: does not record which packing of 'animals'"),
        ({"dataset": "birds", "extra": {SOURCE_DATA_IDS: {"train": "0"}}}, "trained on the dataset 'birds'"),
    ],
)
def test_an_origin_that_cannot_be_checked_is_said(
    changes: dict[str, Any], said: str, data_dir: Path, tmp_path: Path
) -> None:
    progress = Listening()
    path = write_checkpoint(tmp_path / "best.pt", **changes)
    evaluate(settings_for(data_dir, path, tmp_path / "out", attacks=("none",), qualities=(10,)), progress)
    assert [line for line in progress.lines if said in line]


def test_a_diverged_model_is_an_error_not_a_row(data_dir: Path, tmp_path: Path) -> None:
    model = build_model("compact", 3)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    info = ModelInfo("compact", 3, CLASSES, PREPROCESSING)
    save_checkpoint(tmp_path / "nan.pt", model, info)
    with pytest.raises(DataError, match=r"nan\.pt: its outputs are NaN"):
        evaluate(settings_for(data_dir, tmp_path / "nan.pt", tmp_path / "out"))
    assert not (tmp_path / "out" / "predictions").exists()


def test_an_altered_shard_is_an_error_unless_told_not_to_look(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "animals"
    write_variant(folder, None)
    path = folder / "source" / shard_name("test", 0)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the padding: the images stay as they are
    path.write_bytes(data)
    chosen = settings_for(folder, checkpoint, tmp_path / "out", qualities=(None,))
    with pytest.raises(DataError, match="altered"):
        evaluate(chosen)
    assert len(evaluate(replace(chosen, verify=False)).cells) == 3


OWN_MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserModel:
    """A user's trained model in a module of the current folder."""
    (tmp_path / "my_limla_net.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_limla_net", raising=False)
    net = importlib.import_module("my_limla_net").build()
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, "own.pt")
    return UserModel(
        "my_limla_net:build", Path("own.pt"), PREPROCESSING, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )


def test_a_users_own_model(own: UserModel, data_dir: Path, tmp_path: Path) -> None:
    progress = Listening()
    chosen = settings_for(data_dir, Path(), tmp_path / "out", checkpoints=(), user_model=own)
    result = evaluate(chosen, progress)
    condition = result.cells[0].condition
    assert (condition.model, condition.train_codec, condition.train_quality, condition.seed) == (
        "my_limla_net:build",
        "unknown",
        "unknown",
        -1,
    )
    assert any("in this order, cat, dog, emu" in line for line in progress.lines)
    # another normalisation is another model, though the weights file is the same
    other = evaluate(replace(chosen, user_model=replace(own, std=(0.5, 0.5, 0.5))))
    assert other.num_skipped == 0
    assert evaluate(chosen).num_skipped == 6


def test_a_model_with_more_outputs_than_classes(own: UserModel, data_dir: Path, tmp_path: Path) -> None:
    """Images at their own size: only the data knows it, so the outputs are checked on the first batch."""
    module = tmp_path / "my_limla_net.py"
    module.write_text(OWN_MODEL.replace("nn.Linear(4, 3)", "nn.Linear(4, 5)"))
    sys.modules.pop("my_limla_net")
    net = importlib.import_module("my_limla_net").build()
    torch.save(net.state_dict(), "own.pt")
    chosen = settings_for(data_dir, Path(), tmp_path / "out", checkpoints=(), user_model=own)
    with pytest.raises(SettingsError, match=r"into \(1, 5\), but the data has 3 classes"):
        evaluate(chosen)
    assert not (tmp_path / "out" / "predictions").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no model to evaluate"),
        (("--checkpoint", "CHECKPOINT", "--attack", "none", "--eps", "8/255"), "no chosen attack takes it"),
        (("--checkpoint", "CHECKPOINT", "--attack", "fgsm", "--steps", "5"), "attacks that do: mifgsm, pgd"),
        (("--checkpoint", "CHECKPOINT", "--attack", "fgsm", "--eps", "eight"), "'eight' is not a number"),
        (("--checkpoint", "CHECKPOINT", "--quality", "0"), "out of range"),
        (("--checkpoint", "CHECKPOINT", "--mean", "0,0,0"), "add --model and --weights"),
        (("--weights", "w.pt"), "--weights needs --model"),
        (("--model", "a:b"), "--model needs --weights"),
        (("--model", "a:b", "--weights", "w.pt", "--std", "1,1"), "three numbers"),
        (("--model", "absent_module:b", "--weights", "w.pt"), "absent_module"),
    ],
)
def test_command_line_mistakes(
    words: tuple[str, ...], message: str, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    typed = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        limla, ["evaluate", "--data-dir", str(data_dir), "--output-dir", str(out), *typed]
    )
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1
    assert not out.exists()
