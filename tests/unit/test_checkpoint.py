"""Files of weights: what is accepted, what is refused, and that nothing in them runs."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limla.errors import DataError, LimlaError, SettingsError
from limla.files import file_sha256
from limla.models import user
from limla.models.base import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, build_model
from limla.models.checkpoint import load_checkpoint, load_user_model, save_checkpoint
from limla.models.compact import compact
from limla.models.weights import load_into, read_state_dict
from limla.types import Preprocessing
from tests.listening import Listening

PREPROCESSING = Preprocessing(image_size=32)
NAMES = ("a", "b", "c")
MODULE = """
import torch
from torch import nn

def net(num_classes):
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(4, num_classes))

def three():
    return net(3)

def raises(num_classes):
    raise RuntimeError("no such\\nlayer")

def number():
    return 5

def wide(num_classes):
    return net(num_classes + 1)

def pair(num_classes):
    class Pair(nn.Module):
        def forward(self, images):
            return images, images
    return Pair()

constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module of a user's, in the current folder."""
    (tmp_path / "own_models.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(user, "_consented", set())
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return "own_models"


class _Touch:
    """A pickle of this creates a file when it is loaded by an unsafe loader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.open, (str(self.path), os.O_CREAT | os.O_RDWR)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": _Touch(mark)}, tmp_path / "zip.pt", pickle_protocol=protocol)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"model": _Touch(mark)}, protocol=2))
    for name in ("zip.pt", "raw.pt"):
        for load in (load_checkpoint, read_state_dict):
            with pytest.raises(DataError, match=rf"{name}: refused.*state_dict\(\)") as caught:
                load(tmp_path / name)
            assert "\n" not in str(caught.value)
            # of newer protocols torch says only that it does not read them
            assert protocol > 2 or "the Python object 'posix.open'" in str(caught.value)
    assert not mark.exists()
    os.close(pickle.loads((tmp_path / "raw.pt").read_bytes())["model"])
    assert mark.exists(), "the pickle does run code where it is not refused"


@pytest.mark.parametrize("content", [b"", b"not a file of torch", b"PK\x03\x04 cut", bytes(1000)])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"best\.pt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, build_model("compact", 3), ModelInfo("compact", 3, NAMES, PREPROCESSING))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"best\.pt: damaged"):
        load_checkpoint(path)


def test_a_flipped_bit_among_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, build_model("compact", 3), ModelInfo("compact", 3, NAMES, PREPROCESSING))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"best\.pt: damaged, the checksum of its record '.*' is wrong"):
        load_checkpoint(path)


def test_the_id_is_the_files_hash_and_equal_models_give_equal_files(tmp_path: Path) -> None:
    model, info = build_model("compact", 3), ModelInfo("compact", 3, NAMES, PREPROCESSING)
    for name in ("one.pt", "two.pt"):
        save_checkpoint(tmp_path / name, model, info)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    state = torch.get_rng_state()
    assert load_checkpoint(tmp_path / "one.pt").checkpoint_id == file_sha256(tmp_path / "one.pt")[:16]
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers of the caller's"


def _wrap(state: dict[str, torch.Tensor], form: str) -> Any:
    module = {f"module.{key}": value for key, value in state.items()}
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3, "best": 0.5},
        "model": {"model": state},
        "module": module,
        "state_dict and module": {"state_dict": module},
        "compiled and module": {f"_orig_mod.module.{key}": value for key, value in state.items()},
        "without counters": {key: value for key, value in state.items() if "num_batches" not in key},
    }[form]


@pytest.mark.parametrize(
    "form",
    [
        "plain",
        "state_dict",
        "model",
        "module",
        "state_dict and module",
        "compiled and module",
        "without counters",
    ],
)
def test_state_dicts_in_the_forms_people_save(form: str, tmp_path: Path) -> None:
    original = compact(3)
    with torch.no_grad():
        for buffer in original.buffers():
            buffer.add_(1)
    torch.save(_wrap(original.state_dict(), form), tmp_path / "weights.pt")
    loaded = load_user_model("compact", tmp_path / "weights.pt", NAMES, PREPROCESSING, (0, 0, 0), (1, 1, 1))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), original.eval()(images))
    assert (loaded.info.seed, loaded.info.train_quality) == (-1, "unknown")
    assert loaded.info.mean == (0, 0, 0)


def test_a_limla_checkpoint_serves_as_weights(tmp_path: Path) -> None:
    model = build_model("compact", 3)
    save_checkpoint(tmp_path / "best.pt", model, ModelInfo("compact", 3, NAMES, PREPROCESSING))
    again = build_model("compact", 3, weights=tmp_path / "best.pt")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_limla_checkpoint_brings_its_normalisation(tmp_path: Path) -> None:
    mean, std = (0.5, 0.25, 0.125), (1.0, 0.5, 0.25)
    model, path = build_model("compact", 3, mean=mean, std=std), tmp_path / "best.pt"
    save_checkpoint(path, model, ModelInfo("compact", 3, NAMES, PREPROCESSING, mean, std))
    loaded = load_user_model("compact", path, NAMES, PREPROCESSING)
    assert (loaded.info.mean, loaded.info.std) == (mean, std)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model.eval()(images))
    given = load_user_model("compact", path, NAMES, PREPROCESSING, mean=(0.0, 0.0, 0.0))
    assert (given.info.mean, given.info.std) == ((0.0, 0.0, 0.0), std)
    torch.save(compact(3).state_dict(), tmp_path / "plain.pt")
    plain = load_user_model("compact", tmp_path / "plain.pt", NAMES, PREPROCESSING)
    assert (plain.info.mean, plain.info.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_head_of_another_size_is_drawn_anew_and_said(tmp_path: Path) -> None:
    torch.save(compact(1000).state_dict(), tmp_path / "thousand.pt")
    lines = Listening()
    model = build_model("compact", 3, weights=tmp_path / "thousand.pt", progress=lines)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert lines.lines == ["thousand.pt: its last layer is for 1000 classes; a new one for 3 is drawn"]
    with pytest.raises(SettingsError, match=r"of another shape: 15\.weight"):
        load_user_model("compact", tmp_path / "thousand.pt", NAMES, PREPROCESSING)


def test_weights_of_another_model_name_the_first_keys(tmp_path: Path) -> None:
    state = compact(3).state_dict()
    state["extra.weight"] = torch.zeros(1)
    del state["0.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(SettingsError, match=r"1 missing: 0\.weight; 1 unexpected: extra\.weight"):
        load_into(compact(3), tmp_path / "weights.pt", 3)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(
        SettingsError, match=r"missing: 0\.weight, 1\.weight, 1\.bias …; 2 unexpected: weight, bias"
    ):
        load_into(compact(3), tmp_path / "linear.pt", 3)


@pytest.mark.parametrize(
    ("content", "message"), [([1, 2], "a list"), ({"lr": 0.1}, "'lr' is a float"), ({}, "a dict")]
)
def test_what_is_no_state_dict_is_said(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=message):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize("function", ["net", "three"])
def test_a_users_own_model(function: str, own: str, tmp_path: Path) -> None:
    original = user.build(f"{own}:{function}", 3)
    torch.save({"state_dict": original.state_dict()}, tmp_path / "own.pth")
    loaded = load_user_model(
        f"{own}:{function}", tmp_path / "own.pth", NAMES, PREPROCESSING, (0, 0, 0), (1, 1, 1)
    )
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), original(images))
    assert loaded.checkpoint_id == file_sha256(tmp_path / "own.pth")[:16]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent_module:net", "there is no module 'absent_module'"),
        ("own_models:absent", "own_models has no 'absent'"),
        ("own_models:raises", "raised RuntimeError: no such layer"),
        ("own_models:number", "returned a int, not an nn.Module"),
        ("own_models:constant", "is a int, not a function"),
        ("own_models:wide", r"into \(1, 4\), but the data has 3 classes"),
        ("own_models:pair", "returns a tuple"),
        ("own models:net", "not an address"),
        ("broken_models:net", "importing broken_models raised ZeroDivisionError"),
        ("needy_models:net", "its module needs 'absent_package'"),
    ],
)
def test_mistakes_in_a_users_model_are_one_line(spec: str, message: str, own: str, tmp_path: Path) -> None:
    (tmp_path / "broken_models.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "needy_models.py").write_text("import absent_package\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        build_model(spec, 3, image_size=32)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_alone_never_imports_a_users_module(own: str, tmp_path: Path) -> None:
    spec = f"{own}:net"
    info = ModelInfo(spec, 3, NAMES, PREPROCESSING)
    save_checkpoint(tmp_path / "best.pt", build_model(spec, 3), info)
    del sys.modules[own]
    with pytest.raises(SettingsError, match=f"add --model {spec}"):
        load_checkpoint(tmp_path / "best.pt")
    assert own not in sys.modules
    assert load_checkpoint(tmp_path / "best.pt", own_model=spec).info == info
    user.consent(spec)
    assert load_checkpoint(tmp_path / "best.pt").info == info, (
        "training or `limla run` named it in this process"
    )
    with pytest.raises(LimlaError, match="not of 'compact'"):
        load_checkpoint(tmp_path / "best.pt", own_model="compact")
