"""Evaluation: the grid of cells, its rows, resuming, and the checks before any work."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
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
from limla.codecs.jpeg import JpegCodec
from limla.errors import DataError, LimlaError, SettingsError, UnknownNameError
from limla.evaluation import EvaluateResult, EvaluateSettings, UserModel, evaluate
from limla.evaluation.passes import batch_seed
from limla.evaluation.pictures import choose_keys, picture_name
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.cpu import CpuLoader
from limla.manifest import Manifest, read_manifest, variant_name
from limla.models.base import SOURCE_DATA_IDS, ModelInfo, build_model
from limla.models.checkpoint import load_checkpoint, save_checkpoint
from limla.progress import Progress
from limla.results import read_predictions
from limla.shards import open_shard, shard_name
from limla.types import Preprocessing
from tests.conftest import natural_like
from tests.toy import source_ids

CLASSES = ("cat", "dog", "emu")
SIDE = 24
PREPROCESSING = Preprocessing(image_size=SIDE, resize="none")
NUM_TEST = 14


def write_variant(data_dir: Path, quality: int | None, class_names: tuple[str, ...] = CLASSES) -> None:
    """A small variant of two test shards and one training shard."""
    codec = JpegCodec()
    name = variant_name("source" if quality is None else "jpeg", quality)
    entries = []
    for split, number, keys in (
        ("train", 0, range(100, 103)),
        ("test", 0, range(8)),
        ("test", 1, range(8, NUM_TEST)),
    ):
        path = data_dir / name / shard_name(split, number)
        with open_shard(path) as writer:
            for index in keys:
                label = index % 3
                key = f"{split}/{class_names[label]}/photo{index:03d}"
                image = codec.encode(natural_like(SIDE, SIDE, seed=index), quality or 95)
                about = json.dumps({"key": key, "height": SIDE, "width": SIDE}).encode()
                writer.add(key, {"jpg": image, "cls": str(label).encode(), "json": about})
        entries.append(writer.entry(path.name, split))
    codec_name = "source" if quality is None else "jpeg"
    settings = {} if quality is None else {"source": source_ids(data_dir)}
    manifest = Manifest(data_dir.name, codec_name, quality, class_names, tuple(entries), settings, {})
    manifest.write(data_dir / name)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants source, jpeg-q10 and jpeg-q50. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "animals"
    for quality in (None, 10, 50):
        write_variant(folder, quality)
    return folder


def write_checkpoint(path: Path, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    model = build_model("compact", 3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):  # logits that differ between images
                module.weight.mul_(5)
    info = ModelInfo("compact", 3, CLASSES, PREPROCESSING, train_codec="jpeg", train_quality="10", seed=seed)
    save_checkpoint(path, model.eval(), replace(info, **changes))
    return path


@pytest.fixture(scope="module")
def checkpoint(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the data of `data_dir`, it says."""
    path = tmp_path_factory.mktemp("model") / "best.pt"
    return write_checkpoint(path, dataset="animals", extra={SOURCE_DATA_IDS: source_ids(data_dir)})


class Listening(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def settings_for(data_dir: Path, checkpoint: Path, results_dir: Path, **changes: Any) -> EvaluateSettings:
    usual = EvaluateSettings(
        data_dir=data_dir,
        results_dir=results_dir,
        checkpoints=(checkpoint,),
        qualities=(None, 10),
        attacks=("fgsm", "pgd"),
        steps=3,
        loader="cpu",
        batch_size=5,
        device="cpu",
    )
    return replace(usual, **changes)


def files_of(results_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results_dir / "predictions").iterdir()}


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
    assert parameters == {"alpha": 2 / 255, "random_start": True, "seed": 0, "steps": 3}


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
                attack = build_attack(name, 8 / 255, **({"steps": 3} if name == "pgd" else {}))
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
    assert any("6 of 6 cells were there already" in line for line in progress.said)
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
    chosen = settings_for(data_dir, checkpoint, tmp_path, qualities=(50,), eps=(0.0, 2 / 255, 2 / 255, 0.5))
    progress = Listening()
    result = evaluate(chosen, progress)
    assert [(c.condition.attack, c.condition.eps) for c in result.cells] == [
        ("none", 0.0),
        *((name, eps) for name in ("fgsm", "pgd") for eps in (0.0, 2 / 255, 0.5)),
    ]
    tables = {(c.attack, c.eps): t.select(["prediction", "loss"]) for c, t in read_predictions(tmp_path)}
    assert tables["fgsm", 0.0].equals(tables["none", 0.0])
    assert any("3 steps of 2/255 cannot cross a ball of radius 128/255" in line for line in progress.said)


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


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": ("pdg",)}, UnknownNameError, "unknown attack 'pdg'; known: none, fgsm, pgd"),
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
    assert [line for line in progress.said if said in line]


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
    assert any("in this order, cat, dog, emu" in line for line in progress.said)
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


def test_command_line_end_to_end(
    data_dir: Path, checkpoint: Path, finished: EvaluateResult, tmp_path: Path
) -> None:
    words = ["evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--quality", "source,10"]
    words += ["--attack", "none,fgsm,pgd", "--eps", "8/255", "--steps", "3", "--alpha", "2/255"]
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no model to evaluate"),
        (("--checkpoint", "CHECKPOINT", "--attack", "none", "--eps", "8/255"), "no chosen attack takes it"),
        (("--checkpoint", "CHECKPOINT", "--attack", "fgsm", "--steps", "5"), "attacks that do: pgd"),
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
