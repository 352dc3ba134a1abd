"""`limla codec train`: what it learns, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from limla.cli import limla
from limla.codec_training import CodecTrainSettings, fitting, stage, train_codec
from limla.codec_training.crops import epoch_batches
from limla.codec_training.network import Autoencoder
from limla.codec_training.plan import STEP, plan_code
from limla.codecs.autoencoder import AutoencoderCodec
from limla.codecs.autoencoder_network import NUM_QUALITIES, PATCH
from limla.codecs.autoencoder_weights import read_weights, write_weights
from limla.errors import DataError, SettingsError
from limla.files import file_sha256
from limla.loaders.source import open_source
from limla.manifest import SOURCE
from limla.metrics import psnr_db
from tests.conftest import natural_like
from tests.listening import Listening
from tests.toy import make_toy

EPOCHS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_toy(folder, counts={"train": 24, "val": 4}, side=64)
    return folder


def small(data_dir: Path, output: Path) -> CodecTrainSettings:
    return CodecTrainSettings(data_dir, output, EPOCHS, crop_size=32, width=8, bits=160, device="cpu")


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run that nothing interrupted."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole") / "weights.bin"
    train_codec(small(data_dir, output))
    return output


def test_it_writes_weights_and_a_record(whole: Path) -> None:
    record = json.loads(whole.with_name("weights.bin.json").read_text())
    assert record["weights_sha256"] == file_sha256(whole)
    assert [row["epoch"] for row in record["curve"]] == list(range(1, EPOCHS + 1))
    assert record["settings"]["bits"] == 160
    best = max(record["curve"], key=lambda row: row["val_psnr_db"])
    assert record["best_epoch"] == best["epoch"]
    rates = [row["rate_bpp"] for row in record["rates"]]
    assert rates == sorted(rates)
    assert sorted(path.name for path in whole.parent.iterdir()) == ["weights.bin", "weights.bin.json"]
    codec = AutoencoderCodec(str(whole))
    image = natural_like(40, 50)
    assert codec.decode(codec.encode(image, 64)).shape == image.shape


class _Stopped(KeyboardInterrupt):
    pass


class _StopAfter(Listening):
    """Ctrl-C when so many lines of epochs were said, or in the middle of a stage."""

    def __init__(self, epochs: int, during: str | None = None) -> None:
        super().__init__()
        self._epochs, self._during = epochs, during

    @contextmanager
    def stage(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        with super().stage(description, total, unit) as advance:

            def advance_or_stop(number: int) -> None:
                advance(number)
                if self._during is not None and description.startswith(self._during):
                    raise _Stopped

            yield advance_or_stop

    def say(self, message: str) -> None:
        super().say(message)
        if len(self.lines) == self._epochs:
            raise _Stopped


@pytest.mark.parametrize(
    "stop", [_StopAfter(1), _StopAfter(2), _StopAfter(9, "epoch 2"), _StopAfter(9, "counting")]
)
def test_interrupted_and_gone_on_the_weights_are_the_same(
    data_dir: Path, whole: Path, tmp_path: Path, stop: _StopAfter
) -> None:
    wanted = small(data_dir, tmp_path / "weights.bin")
    with pytest.raises(_Stopped):
        train_codec(wanted, stop)
    assert not wanted.output.exists()
    said = Listening()
    train_codec(wanted, said)
    assert said.lines[0].startswith("going on after epoch")
    assert wanted.output.read_bytes() == whole.read_bytes()
    assert (tmp_path / "weights.bin.json").read_bytes() == whole.with_name("weights.bin.json").read_bytes()
    done = Listening()
    train_codec(wanted, done)
    assert done.lines == [f"nothing to do: {wanted.output} is trained"]


@pytest.mark.slow
def test_killed_and_gone_on_the_weights_are_the_same(data_dir: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "weights.bin"
    words = ["codec", "train", data_dir, "--output", output, "--epochs", EPOCHS, "--crop-size", 32]
    words += ["--width", 8, "--bits", 160, "--device", "cpu"]
    command = [sys.executable, "-m", "limla", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "weights.bin.training.pt"
    end = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "going on after epoch" in done.stderr
    assert "quality  bits/position  bits/pixel  PSNR (dB)" in done.stdout
    assert output.read_bytes() == whole.read_bytes()


def test_other_settings_or_files_in_the_way_are_named(data_dir: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="seed: 0 there, 1 asked for"):
        train_codec(replace(small(data_dir, whole), seed=1))
    output = tmp_path / "weights.bin"
    output.write_bytes(whole.read_bytes())
    with pytest.raises(SettingsError, match=r"without weights\.bin\.json"):
        train_codec(small(data_dir, output))
    (tmp_path / "weights.bin.json").write_bytes(whole.with_name("weights.bin.json").read_bytes())
    output.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(DataError, match="altered since it was trained"):
        train_codec(small(data_dir, output))
    record = tmp_path / "mine.bin.json"
    for text in ('{"their": "own"}', "[1]", "{"):
        record.write_text(text)
        with pytest.raises(DataError, match=r"mine\.bin\.json is there and is no record of limla codec train"):
            train_codec(small(data_dir, tmp_path / "mine.bin"))
        assert record.read_text() == text
    other = tmp_path / "other.bin"
    other.with_name("other.bin.training.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"other\.bin\.training\.pt"):
        train_codec(small(data_dir, other))


def test_weights_that_were_removed_are_made_again(data_dir: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "weights.bin"
    (tmp_path / "weights.bin.json").write_bytes(whole.with_name("weights.bin.json").read_bytes())
    with pytest.raises(SettingsError, match="seed: 0 there, 1 asked for"):
        train_codec(replace(small(data_dir, output), seed=1))
    train_codec(small(data_dir, output))
    assert output.read_bytes() == whole.read_bytes()


def test_a_checkpoint_of_other_versions_is_not_gone_on_from(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = small(data_dir, tmp_path / "weights.bin")
    with pytest.raises(_Stopped):
        train_codec(wanted, _StopAfter(1))
    known = stage.library_versions
    monkeypatch.setattr(stage, "library_versions", lambda names: {**known(names), "torch": "99"})
    with pytest.raises(
        SettingsError, match=r"weights\.bin\.training\.pt was made with .*\(torch: '.+' there, '99'"
    ):
        train_codec(wanted)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--epochs", "0", "epochs 0 is out of range: choose 1 to 100000"),
        ("--crop-size", "100", "crop size 100: choose a multiple of 8"),
        ("--bits", "100", "100 bits per code position: choose 160, 256, 384, 512"),
        ("--learning-rate", "0", "learning rate 0.0: choose more than 0"),
        ("--width", "4096", "width 4096 is out of range"),
        ("--device", "tpu", "unknown device 'tpu'"),
    ],
)
def test_a_wrong_option_is_one_line(
    data_dir: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    words = ["codec", "train", str(data_dir), "--output", str(tmp_path / "weights.bin"), option, value]
    result = CliRunner().invoke(limla, words)
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_too_little_to_learn_from_is_said(tmp_path: Path) -> None:
    make_toy(tmp_path, counts={"train": 1, "val": 1}, side=5)
    with pytest.raises(DataError, match="too little to learn a code from: 1 patches"):
        train_codec(small(tmp_path, tmp_path / "weights.bin"))


def test_crops_are_decided_by_seed_and_epoch(data_dir: Path) -> None:
    source = open_source([data_dir / SOURCE], "train")
    one, again, other = (
        torch.cat(list(epoch_batches(source, 32, size, 0, epoch))) for size, epoch in ((5, 1), (8, 1), (8, 2))
    )
    assert one.shape == (24, 3, 32, 32)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.cat(list(epoch_batches(source, 96, 8, 0, 1))).shape == (24, 3, 96, 96), (
        "larger than the images"
    )


def test_the_network_in_whole_numbers_is_that_of_torch() -> None:
    """Pixels and numbers of the two agree to the rounding of weights and values."""
    generator = np.random.default_rng(0)
    plan = plan_code(generator.normal(0, np.geomspace(8, 0.3, PATCH), (3000, PATCH)), 80)
    torch.manual_seed(0)
    model = Autoencoder(plan, 16).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.02 * torch.randn_like(value)  # nothing is at its beginning
    contexts = vars(fitting._empty_contexts(len(plan.order)))
    data = write_weights(plan.order, plan.lengths, 225, {**fitting.whole_numbers(model), **contexts})
    codec, weights = AutoencoderCodec.from_weights(data), read_weights(data)
    image = natural_like(48, 64, seed=1)
    pixels = torch.from_numpy((image.astype(np.float32) - 127.5) / 64).permute(2, 0, 1)[None]
    with torch.inference_mode():
        numbers = model.analyse(pixels)
        ((_, whole),) = weights.network.analyse(image)
        assert np.abs(whole / 1024 - numbers[0].permute(1, 2, 0).numpy()).max() < 0.02
        for quality in (5, NUM_QUALITIES):
            qualities = torch.tensor([quality])
            decoded = model.synthesise(model.quantise(numbers, qualities), qualities)[0].permute(1, 2, 0)
            levels = np.clip(decoded.numpy() * 64 + 127.5, 0, 255).round().astype(np.uint8)
            assert psnr_db(levels, codec.decode(codec.encode(image, quality))) > 35


def test_a_plan_sends_what_matters_most_first() -> None:
    generator = np.random.default_rng(1)
    plan = plan_code(generator.normal(0, np.geomspace(16, 0.2, PATCH), (4000, PATCH)), 128)
    assert plan.order[0][0] == 0, "the component of the largest spread"
    assert (np.diff(plan.distortions) < 0).all()
    assert (np.diff(plan.lengths) > 0).all()
    assert plan.lengths[-1] == 128
    assert np.allclose(plan.components @ plan.components.T, np.eye(plan.num_channels), atol=1e-9)
    steps = plan.steps_of_quality()
    assert (np.diff(steps, axis=0) <= 1e-12).all(), "a step never grows with the quality"
    ratios = np.log(steps / STEP) / np.log(3)
    assert np.allclose(ratios, ratios.round())
