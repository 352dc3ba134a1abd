"""The output folder of `limla codec probe`: whose it is, which versions made it, what is damaged in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from limla.cli.codec_probe import probe as command
from limla.errors import DataError, SettingsError
from limla.files import write_json
from limla.probing import ProbeSettings, probe, stage
from limla.registry import CODECS
from tests import toy
from tests.toy import COUNTS, make_toy
from tests.unit import blocksigns

QUALITY = 4


@pytest.fixture(scope="module", autouse=True)
def catalogue() -> Iterator[None]:
    """With a codec of binary codes in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS.plugs, blocksigns.NAME, blocksigns.PLUG)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy dataset's originals. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "toy"
    make_toy(folder)
    return folder


def settings_for(data_dir: Path, output_dir: Path, quality: int = QUALITY) -> ProbeSettings:
    return ProbeSettings(
        data_dir, output_dir, blocksigns.NAME, (quality,), ("pooled",), image_size=32, device="cpu"
    )


@pytest.fixture(scope="module")
def probed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output folder. Read only."""
    folder = tmp_path_factory.mktemp("probed") / "out"
    probe(settings_for(data_dir, folder))
    return folder


@pytest.fixture
def out(probed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(probed, tmp_path / "out"))


def test_a_folder_with_other_contents_is_refused_and_left_as_it_is(data_dir: Path, tmp_path: Path) -> None:
    mine = tmp_path / "probe.csv"
    mine.write_text("my own table")
    with pytest.raises(SettingsError, match=r"is not empty \(probe\.csv …\) and not made by limla codec probe"):
        probe(settings_for(data_dir, tmp_path))
    assert mine.read_text() == "my own table"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_file_of_settings_that_is_none_is_named(data_dir: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(DataError, match=r"settings\.json: not made by limla codec probe, or damaged"):
        probe(settings_for(data_dir, tmp_path))


def test_parts_of_other_versions_are_not_mixed_in(
    data_dir: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = stage.library_versions
    monkeypatch.setattr(stage, "library_versions", lambda names: {**known(names), "scikit-learn": "99"})
    with pytest.raises(
        SettingsError, match=r"was made with other settings \(scikit-learn: '.+' there, '99' asked"
    ):
        probe(settings_for(data_dir, out))


def test_arrays_that_are_missing_or_cut_off_are_made_again(data_dir: Path, out: Path) -> None:
    inputs = out / "inputs"
    whole = {path.name: path.read_bytes() for path in inputs.glob("*.npy")}
    wanted = {path.name: json.loads(path.read_text()) for path in (out / "parts").iterdir()}
    for name, data in whole.items():
        shutil.rmtree(out / "parts")
        if name.endswith("views.npy"):
            (inputs / name).write_bytes(data[:-1])
        else:
            (inputs / name).unlink()
        assert probe(settings_for(data_dir, out)).num_kept == 0
        assert {path.name: path.read_bytes() for path in inputs.glob("*.npy")} == whole
    found = {path.name: json.loads(path.read_text()) for path in (out / "parts").iterdir()}
    assert {name: part["predictions"] for name, part in found.items()} == {
        name: part["predictions"] for name, part in wanted.items()
    }
    assert len(whole) == 3 * 3 + 3 * 2


def test_pixels_that_are_gone_are_read_again_for_another_quality(data_dir: Path, out: Path) -> None:
    for path in (out / "inputs").glob("pixels-*.npy"):
        path.unlink()
    assert probe(settings_for(data_dir, out, quality=8)).num_kept == 1


def test_finished_parts_need_no_arrays(data_dir: Path, out: Path) -> None:
    for path in (out / "inputs").glob("*.npy"):
        path.unlink()
    assert probe(settings_for(data_dir, out)).num_kept == 3
    assert not list((out / "inputs").glob("*.npy"))


_KEYS = [f"train-{number}" for number in range(COUNTS["train"])]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("samples.json", "{}"),
        ("samples.json", "["),
        ("samples.json", '{"train": {"keys": ["a"], "labels": []}, "val": [], "test": []}'),
        ("samples.json", json.dumps({split: {"keys": ["a"], "labels": [0]} for split in COUNTS})),
        (
            "samples.json",
            json.dumps({split: {"keys": _KEYS, "labels": ["a"] * len(_KEYS)} for split in COUNTS}),
        ),
        ("q4-test.json", "{}"),
        ("q4-test.json", "[]"),
        ("q4-test.json", '{"num_bytes": [1]}'),
    ],
)
def test_a_damaged_record_is_named_in_one_line(data_dir: Path, out: Path, name: str, text: str) -> None:
    shutil.rmtree(out / "parts")
    (out / "inputs" / name).write_text(text)
    options = ["--codec", blocksigns.NAME, "--quality", "4", "--image-size", "32", "--device", "cpu"]
    options += ["--representation", "pooled", "--output-dir", str(out)]
    found = CliRunner().invoke(command, [str(data_dir), *options])
    assert found.exit_code == 2, found.output
    lines = found.stderr.strip().splitlines()
    assert f"{name}: damaged" in lines[-1]
    assert "remove it and run again" in lines[-1]
    assert "Traceback" not in found.stderr


def test_records_of_other_images_are_not_put_beside_the_shards(data_dir: Path, out: Path) -> None:
    record = out / "inputs" / "samples.json"
    samples = json.loads(record.read_text())
    samples["train"]["labels"] = samples["train"]["labels"][::-1]
    write_json(record, samples)
    shutil.rmtree(out / "parts")
    (out / "inputs" / "pixels-train-whole.npy").unlink()
    with pytest.raises(DataError, match=r"samples\.json: does not fit the shards"):
        probe(settings_for(data_dir, out))


def test_an_array_of_the_right_size_that_is_none_is_named(data_dir: Path, out: Path) -> None:
    path = out / "inputs" / "pixels-train-whole.npy"
    path.write_bytes(bytes(path.stat().st_size))
    shutil.rmtree(out / "parts")
    with pytest.raises(DataError, match=r"pixels-train-whole\.npy: damaged"):
        probe(settings_for(data_dir, out))


def test_one_class_in_train_is_said_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "CLASS_NAMES", ("dark",))
    make_toy(tmp_path / "toy")
    with pytest.raises(DataError, match="all train images are of class 'dark', and a probe needs 2 classes"):
        probe(settings_for(tmp_path / "toy", tmp_path / "out"))
    assert not list((tmp_path / "out" / "inputs").glob("codes-*"))
