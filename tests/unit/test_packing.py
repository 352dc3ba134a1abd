"""A folder of photos becomes source shards: whole, counted, repeatable, whatever lies in the folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

from limla.cli import limla
from limla.engines.local import LocalEngine
from limla.errors import DataError, SettingsError
from limla.manifest import FILE_NAME, read_manifest, verify_shards
from limla.packing import PackResult, PackSettings, pack
from limla.packing.discovery import discover
from limla.packing.planning import cut
from limla.packing.splitting import plan
from limla.packing.verification import verify_variant
from limla.progress import Progress
from limla.results import read_encodings
from limla.shard_reader import Sample, ShardReader
from tests.conftest import natural_like


class Said(Progress):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        assert "\n" not in message
        self.lines.append(message)


def photo(path: Path, seed: int = 0, quality: int = 90, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(natural_like(24, 32, seed=seed)).save(path, quality=quality, **options)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def samples(folder: Path) -> dict[str, tuple[str, Sample, bytes]]:
    """Key → (split, sample, image bytes)."""
    found: dict[str, tuple[str, Sample, bytes]] = {}
    for shard in read_manifest(folder).shards:
        with ShardReader(folder / shard.name) as reader:
            for sample in reader:
                assert sample.key not in found
                image = bytes(sample.image)
                sample.image.release()
                found[sample.key] = (shard.split, sample, image)
    return found


def quarantined(result: PackResult) -> dict[str, str]:
    lines = result.quarantine.read_text(encoding="utf-8").splitlines()
    found = {entry["path"]: entry["reason"] for entry in map(json.loads, lines)}
    assert len(found) == len(lines) == result.quarantined
    assert result.packed + result.quarantined == result.found
    return found


def type_in(*words: object) -> Result:
    return CliRunner().invoke(limla, [str(word) for word in words])


def test_every_photo_arrives_once_and_untouched(photo_folder: Path, tmp_path: Path) -> None:
    result = pack(photo_folder, tmp_path / "pets", PackSettings())
    folder = tmp_path / "pets" / "source"
    assert result.folder == folder
    assert (result.found, result.packed, result.quarantined, result.made) == (24, 24, 0, True)
    manifest = read_manifest(folder)
    assert (manifest.dataset, manifest.class_names) == ("pets", ("cat", "dog"))
    assert {split: manifest.num_samples(split) for split in manifest.splits()} == {
        "train": 20,
        "val": 2,
        "test": 2,
    }
    for split in manifest.splits():
        verify_shards(folder, manifest, split)
    assert verify_variant(folder).problems == ()
    packed = samples(folder)
    assert len(packed) == 24
    for key, (_, sample, image) in packed.items():
        class_name, stem = key.split("/")
        original = photo_folder / class_name / f"{stem}.jpg"
        assert image == original.read_bytes()
        assert sample.label == manifest.class_names.index(class_name)
        assert sample.metadata["source_path"] == f"{class_name}/{stem}.jpg"
        assert sample.metadata["num_bytes"] == sample.metadata["source_num_bytes"] == len(image)
        assert sample.metadata["jpeg"]["quality"] == 92
        with PIL.Image.open(original) as opened:
            assert (sample.metadata["width"], sample.metadata["height"]) == opened.size
    rows = read_encodings(tmp_path / "pets", ["source"]).to_pylist()
    assert [row["key"] for row in rows] == list(packed)
    assert all(row["num_bytes"] == len(packed[row["key"]][2]) for row in rows)
    assert all(row["rate_bpp"] == 8 * row["num_bytes"] / (row["height"] * row["width"]) for row in rows)
    labels = [sample.label for split, sample, _ in packed.values() if split == "train"]
    assert labels != sorted(labels), "classes are mixed"
    assert quarantined(result) == {}


def test_the_rate_of_the_originals_counts_the_files_as_they_came(tmp_path: Path) -> None:
    """A turned JPEG is stored as PNG, several times as large: that is our choice, not what the photo cost."""
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    photo(tmp_path / "raw" / "cat" / "turned.jpg", 1, exif=turned)
    photo(tmp_path / "raw" / "cat" / "plain.jpg", 2)
    result = pack(tmp_path / "raw", tmp_path / "out", PackSettings())
    assert result.manifest.summary["audit"]["all"]["converted"] == {"orientation": 1}
    _, sample, image = samples(result.folder)["cat/turned"]
    rows = {row["key"]: row for row in read_encodings(tmp_path / "out", ["source"]).to_pylist()}
    num_bytes = (tmp_path / "raw" / "cat" / "turned.jpg").stat().st_size
    assert sample.metadata["num_bytes"] == len(image) > num_bytes
    row = rows["cat/turned"]
    assert row["num_bytes"] == sample.metadata["source_num_bytes"] == num_bytes
    assert row["rate_bpp"] == 8 * num_bytes / (row["height"] * row["width"])


def test_equal_input_gives_equal_bytes(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the threads, the order the file system lists in, the dates, and where the folder lies."""
    pack(photo_folder, tmp_path / "a" / "pets", PackSettings(max_shard_samples=7, workers=1))
    expected = contents(tmp_path / "a" / "pets" / "source")
    copy = tmp_path / "copy"
    shutil.copytree(photo_folder, copy)
    for path in copy.rglob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    real = os.scandir

    class Backwards:
        def __init__(self, path: object = ".") -> None:
            with real(path) as entries:  # type: ignore[call-overload]
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr("limla.packing.discovery.os.scandir", Backwards)
    pack(copy, tmp_path / "b" / "pets", PackSettings(max_shard_samples=7, workers=5))
    assert contents(tmp_path / "b" / "pets" / "source") == expected


def test_shards_end_at_either_limit(photo_folder: Path, tmp_path: Path) -> None:
    by_count = pack(photo_folder, tmp_path / "a", PackSettings(max_shard_samples=6)).manifest
    assert [shard.num_samples for shard in by_count.of_split("train")] == [6, 6, 6, 2]
    by_bytes = pack(photo_folder, tmp_path / "b", PackSettings(max_shard_bytes=20_000)).manifest
    assert len(by_bytes.of_split("train")) > 2
    assert all(shard.num_bytes <= 20_000 for shard in by_bytes.shards)
    single = pack(photo_folder, tmp_path / "c", PackSettings(max_shard_bytes=1)).manifest
    assert [shard.num_samples for shard in single.shards] == [1] * 24


def test_a_split_folder_is_kept_as_it_is(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(3):
        photo(raw / "Train" / "cat" / f"{number}.jpg", number)
        photo(raw / "Train" / "dog" / f"{number}.jpg", 10 + number)
    photo(raw / "validation" / "cat" / "0.jpg", 20)
    photo(raw / "validation" / "emu" / "0.jpg", 21)
    said = Said()
    result = pack(raw, tmp_path / "out", PackSettings(), said)
    assert result.manifest.class_names == ("cat", "dog", "emu")
    assert result.manifest.splits() == ("train", "val")
    for split, sample, _ in samples(result.folder).values():
        assert sample.metadata["source_path"].startswith({"train": "Train/", "val": "validation/"}[split])
    text = "\n".join(said.lines)
    assert "no test folder" in text
    assert "'emu' has 1 image and none of them in train" in text
    assert "'dog' has 3 images and none of them in val" in text


def test_val_can_be_taken_from_train(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(10):
        photo(raw / "train" / "cat" / f"{number}.jpg", number)
    for number in range(4):
        photo(raw / "train" / "dog" / f"{number}.jpg", 10 + number)
    photo(raw / "test" / "cat" / "0.jpg", 20)
    said = Said()
    plain = pack(raw, tmp_path / "plain", progress=said)
    assert any("no val folder; --val-from-train 0.1 takes val from train" in line for line in said.lines)
    assert "val_from_train" not in plain.manifest.settings
    done = type_in("pack", raw, tmp_path / "out", "--val-from-train", "0.2")
    assert done.exit_code == 0, done.output
    assert "no val folder" not in done.output
    manifest = read_manifest(tmp_path / "out" / "source")
    assert {split: manifest.num_samples(split) for split in manifest.splits()} == {
        "train": 11,
        "val": 3,
        "test": 1,
    }
    assert manifest.settings["val_from_train"] == 0.2
    val = {key for key, (split, _, _) in samples(tmp_path / "out" / "source").items() if split == "val"}
    (raw / "train" / "emu").mkdir()
    photo(raw / "train" / "emu" / "0.jpg", 30)
    again = pack(raw, tmp_path / "again", PackSettings(val_from_train=0.2))
    val_again = {key for key, (split, _, _) in samples(again.folder).items() if split == "val"}
    assert val_again == val, "another class moves no image"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("cat", "dog"), "plain class folders: choose the shares"),
        (("train/cat", "val/cat"), "there are train, val: leave it out"),
        (("test/cat",), "there are test: leave it out"),
    ],
)
def test_val_from_train_is_refused_where_it_means_nothing(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    for folder in folders:
        photo(tmp_path / "raw" / folder / "0.jpg")
    with pytest.raises(SettingsError, match=message):
        pack(tmp_path / "raw", tmp_path / "out", PackSettings(val_from_train=0.1))
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match="choose a share from 0, below 1"):
        PackSettings(val_from_train=1.0)


def test_splits_and_classes_side_by_side_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name in ("train/cat", "test/cat", "extra"):
        photo(raw / name / "a.jpg")
    with pytest.raises(DataError, match="'extra' lies beside them"):
        pack(raw, tmp_path / "out", PackSettings())
    (raw / "extra").rename(raw / "Test")
    with pytest.raises(DataError, match="both mean the test split"):
        pack(raw, tmp_path / "out", PackSettings())


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    for name in ("train", "car", "plane"):
        photo(tmp_path / "raw" / name / "a.jpg")
    result = pack(tmp_path / "raw", tmp_path / "out", PackSettings(train=1, val=0, test=0))
    assert result.manifest.class_names == ("car", "plane", "train")


def awful(raw: Path) -> dict[str, str]:
    """A folder with everything that goes wrong; returns path → a word of the reason it is quarantined for."""
    for number in range(6):
        photo(raw / "cat" / f"good{number}.jpg", number)
        photo(raw / "dog" / "deep" / "er" / f"good{number}.JPG", 10 + number, format="JPEG")
    data = (raw / "cat" / "good0.jpg").read_bytes()
    (raw / "cat" / "empty.jpg").touch()
    (raw / "cat" / "half.jpg").write_bytes(data[: len(data) // 2])
    (raw / "cat" / "text.jpeg").write_text("not a picture")
    (raw / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    (raw / "cat" / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(raw / "cat" / "pipe.jpg")
    with (raw / "cat" / "huge.jpg").open("wb") as file:
        file.truncate(3 << 30)
    photo(raw / "stray.png")
    (raw / "cat" / "notes.txt").touch()
    (raw / "cat" / ".hidden.jpg").touch()
    (raw / "__MACOSX").mkdir()
    (raw / "cat" / "loop").symlink_to(raw / "cat", target_is_directory=True)
    (raw / "cat" / "all").symlink_to(raw, target_is_directory=True)
    (raw / "cat" / "disk").symlink_to("/", target_is_directory=True)
    (raw / "dog" / "deep" / "up").symlink_to("..", target_is_directory=True)
    (raw / "cat" / "linked.jpg").symlink_to(raw / "dog" / "deep" / "er" / "good0.JPG")
    (raw / "nothing").mkdir()
    photo(raw / "cat" / "v1.2.final.jpg", 30)
    photo(raw / "cat" / "żółw 🐢.jpg", 31)
    photo(raw / "cat" / "new\nline.jpg", 32)
    photo(raw / "cat" / "same.jpg", 33)
    photo(raw / "cat" / "same.png", 34)
    photo(raw / "cat" / "sub" / "SAME.jpg", 35)
    photo(raw / "cat" / ("long" * 50 + ".jpg"), 36)
    photo(raw / "cat" / os.fsdecode(b"latin\xe9.jpg"), 37)
    photo(raw / "cat" / "really.png", 38, format="JPEG")
    return {
        "cat/empty.jpg": "empty",
        "cat/half.jpg": "JPEG",
        "cat/text.jpeg": "not JPEG",
        "cat/gone.jpg": "no such file",
        "cat/self.jpg": "symbolic links",
        "cat/pipe.jpg": "not a regular file",
        "cat/huge.jpg": "not read",
        "stray.png": "class folder",
    }


def test_an_awful_folder(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    wrong = awful(raw)
    said = Said()
    result = pack(raw, tmp_path / "out", PackSettings(), said)
    found = quarantined(result)
    assert found.keys() == wrong.keys()
    for path, word in wrong.items():
        assert word in found[path], path
    assert result.packed == 12 + 10
    assert result.skipped == {
        ".txt file": 1,
        "hidden or system file": 1,
        "hidden or system folder": 1,
        "folder reached again by a link": 4,
    }
    packed = samples(result.folder)
    assert len({key.lower() for key in packed}) == result.packed
    paths = {sample.metadata["source_path"]: key for key, (_, sample, _) in packed.items()}
    assert paths["cat/good0.jpg"] == "cat/good0"
    assert paths["dog/deep/er/good0.JPG"] == "dog/good0"
    assert paths["cat/v1.2.final.jpg"].startswith("cat/v1-2-final-")
    assert paths["cat/żółw 🐢.jpg"].startswith("cat/zow-")
    assert len({paths[path] for path in ("cat/same.jpg", "cat/same.png", "cat/sub/SAME.jpg")}) == 3
    assert "cat/latin\\xe9.jpg" in paths
    assert "cat/new\\nline.jpg" in paths
    really = packed[paths["cat/really.png"]][1]
    assert (really.extension, really.metadata["source_format"]) == ("jpg", "jpeg")
    assert any("nothing" in line for line in said.lines)
    assert verify_variant(result.folder).problems == ()


def test_the_command_on_an_awful_folder(tmp_path: Path) -> None:
    awful(tmp_path / "raw")
    done = type_in("pack", tmp_path / "raw", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.output.count("found 30 = packed 22 + quarantined 8") == 1
    assert done.output.count("quarantine.jsonl") == 1
    assert ".txt file 1" in done.stdout


def test_nothing_to_pack(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no such folder"):
        pack(tmp_path / "absent", out, PackSettings())
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(DataError, match="no pictures there; expected"):
        pack(raw, out, PackSettings())
    photo(raw / "loose.jpg")
    with pytest.raises(DataError, match="outside any class folder; expected"):
        pack(raw, out, PackSettings())
    with pytest.raises(DataError, match="not a folder"):
        pack(raw / "loose.jpg", out, PackSettings())
    (raw / "cat").mkdir()
    (raw / "cat" / "a.jpg").write_text("no")
    with pytest.raises(DataError, match="none of 2 pictures"):
        pack(raw, out, PackSettings())
    assert not (out / "source" / FILE_NAME).exists()
    assert len((out / "source" / "quarantine.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("inner", "match"), [("shards", "inside"), (".", "inside")])
def test_shards_among_the_photos_are_refused(tmp_path: Path, inner: str, match: str) -> None:
    photo(tmp_path / "raw" / "cat" / "a.jpg")
    with pytest.raises(SettingsError, match=match):
        pack(tmp_path / "raw", tmp_path / "raw" / inner, PackSettings())
    (tmp_path / "raw").rename(tmp_path / "source")
    with pytest.raises(SettingsError, match="inside"):
        pack(tmp_path / "source" / "cat", tmp_path, PackSettings())


def test_an_unreadable_file_and_folder_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    photo(raw / "cat" / "a.jpg")
    photo(raw / "cat" / "locked.jpg")
    photo(raw / "dog" / "locked" / "b.jpg")
    photo(raw / "dog" / "c.jpg")
    real_open, real_scandir = os.open, os.scandir

    def refuse(real: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *rest: object) -> object:
            if "raw" in str(path) and "locked" in Path(str(path)).name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest)

        return call

    # root reads everything, so the refusal is made here
    monkeypatch.setattr(os, "open", refuse(real_open))
    monkeypatch.setattr(os, "scandir", refuse(real_scandir))
    said = Said()
    result = pack(raw, tmp_path / "out", PackSettings(), said)
    assert quarantined(result) == {"cat/locked.jpg": "cannot be read: permission denied"}
    assert result.packed == 2
    assert any("1 folder could not be read" in line and "dog/locked" in line for line in said.lines)


def test_a_second_run_does_nothing_and_another_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(photo_folder, raw)
    pack(raw, out, PackSettings())
    before = contents(out / "source")
    said = Said()
    assert not pack(raw, out, PackSettings(), said).made
    assert said.lines == [
        f"nothing to do: {out / 'source'} is complete",
        "found 24 = packed 24 + quarantined 0",
    ]
    with pytest.raises(SettingsError, match="seed: 0 there, 1 asked for"):
        pack(raw, out, PackSettings(seed=1))
    photo(raw / "cat" / "new.jpg")
    with pytest.raises(SettingsError, match="packed from other photos"):
        pack(raw, out, PackSettings())
    assert contents(out / "source") == before


def test_damaged_shards_are_packed_again(photo_folder: Path, tmp_path: Path) -> None:
    folder = pack(photo_folder, tmp_path, PackSettings()).folder
    before = contents(folder)
    (folder / "val-000000.tar").unlink()
    assert type_in("verify", tmp_path).exit_code == 2
    assert pack(photo_folder, tmp_path, PackSettings()).made
    assert contents(folder) == before


def test_verify_names_every_wrong_file(photo_folder: Path, tmp_path: Path) -> None:
    folder = pack(photo_folder, tmp_path, PackSettings(max_shard_samples=5)).folder
    done = type_in("verify", tmp_path)
    assert done.exit_code == 0, done.output
    assert "24 samples" in done.stdout
    for name in ("train-000000.tar", "train-000001.tar"):
        data = bytearray((folder / name).read_bytes())
        data[700] ^= 1
        (folder / name).write_bytes(data)
    (folder / "test-000000.idx").unlink()
    done = type_in("verify", tmp_path)
    assert done.exit_code == 2
    for name in ("train-000000.tar", "train-000001.tar", "test-000000.idx"):
        assert name in done.stderr
    assert "3 problems" in done.stderr
    assert type_in("verify", tmp_path / "absent").exit_code == 2


def run_pack(raw: Path, out: Path, *options: str, **more: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", "from limla.cli import main; main()", "pack", str(raw), str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    data = [np.asarray(natural_like(160, 200, seed=seed)) for seed in range(4)]
    for number in range(120):
        path = folder / "raw" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(data[number % 4] // (1 + number % 5)).save(path, compress_level=1)
    return folder / "raw"


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(many_photos: Path, tmp_path: Path) -> None:
    options = ("--shard-images", "8")
    whole = run_pack(many_photos, tmp_path / "whole" / "set", *options)
    whole.communicate()
    assert whole.returncode == 0
    out = tmp_path / "killed" / "set"
    killed = 0
    # killed when the second, the sixth, … tar appears: before, between and while shards are written
    for num_tars in (1, 5, 9):
        process = run_pack(many_photos, out, *options)
        while process.poll() is None and len(list(out.glob("source/*.tar"))) < num_tars:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not (out / "source" / FILE_NAME).exists() or process.returncode == 0
    assert killed >= 2
    # what another, finer cut left behind goes away too
    (out / "source" / "train-000099.tar").write_bytes(b"old")
    (out / "source" / "train-000000.tar.1.limla-tmp").write_bytes(b"half")
    last = run_pack(many_photos, out, *options)
    last.communicate()
    assert last.returncode == 0
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_a_full_disk_leaves_nothing_half_written(many_photos: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the write fails in the same place."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = run_pack(many_photos, tmp_path / "set", preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 1
    assert b"what is complete was kept: run this command again to go on" in error
    assert b"Traceback" not in error
    # the small shards of val and test may have been complete before the large one failed
    left = {path.name.partition("-")[0] for path in (tmp_path / "set" / "source").iterdir()}
    assert left <= {"settings.json", "val", "test"}
    last = run_pack(many_photos, tmp_path / "set")
    last.communicate()
    assert last.returncode == 0


class StopsAfter:
    """The local engine, interrupted when some shards are made."""

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards

    def map(self, work: Any, items: Sequence[Any], advance: Callable[[int], None]) -> Iterator[Any]:
        yield from LocalEngine(2).map(work, items[: self.num_shards], advance)
        raise KeyboardInterrupt


def broken_photos(raw: Path) -> None:
    """40 photos of two classes; in a seed-0 packing by fives, damaged ones empty one shard and thin out others."""
    for number in range(40):
        photo(raw / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    planned, _ = plan(discover(raw), PackSettings())
    shards = cut(planned, ("cat", "dog"), PackSettings(max_shard_samples=5))
    assert [len(shard.photos) for shard in shards] == [5, 5, 5, 5, 5, 5, 2, 4, 4]
    for one in (*shards[2].photos, shards[4].photos[0], shards[5].photos[4]):
        path = raw / one.path
        path.write_bytes(b"no picture".ljust(path.stat().st_size))


def marks(out: Path) -> dict[str, tuple[int, int]]:
    """Tar → what changes when it is written again."""
    found = {path.name: path.stat() for path in (out / "source").glob("*.tar")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def interrupted(raw: Path, out: Path, num_shards: int = 3) -> dict[str, tuple[int, int]]:
    """Pack by fives and stop; returns the marks of the tars that are there."""
    with pytest.raises(KeyboardInterrupt):
        pack(raw, out, PackSettings(max_shard_samples=5), engine=StopsAfter(num_shards))
    assert not (out / "source" / FILE_NAME).exists()
    return marks(out)


@pytest.mark.parametrize("workers", [1, 9])
def test_an_interrupted_run_goes_on_shard_by_shard(tmp_path: Path, workers: int) -> None:
    raw = tmp_path / "raw"
    broken_photos(raw)
    whole = pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5, workers=2))
    out = tmp_path / "set"
    before = interrupted(raw, out)
    assert before.keys() == {"train-000000.tar", "train-000001.tar"}, "the third has no picture and so no tar"
    said = Said()
    result = pack(raw, out, PackSettings(max_shard_samples=5, workers=workers), said)
    assert "3 of 9 shards are there already" in said.lines[0]
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")
    assert before.items() <= marks(out).items()
    assert result.warnings == whole.warnings
    assert quarantined(result).keys() == quarantined(whole).keys()


def test_damaged_photos_make_their_shard_smaller_and_move_no_other(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    broken_photos(raw)
    result = pack(raw, tmp_path / "out", PackSettings(max_shard_samples=5))
    assert {shard.name: shard.num_samples for shard in result.manifest.of_split("train")} == {
        "train-000000.tar": 5,
        "train-000001.tar": 5,
        "train-000003.tar": 5,
        "train-000004.tar": 4,
        "train-000005.tar": 4,
        "train-000006.tar": 2,
    }
    assert (result.packed, result.quarantined) == (33, 7)
    assert verify_variant(result.folder).problems == ()
    assert not list(result.folder.glob("train-000002*"))


def test_files_that_cannot_be_pictures_take_no_place(photo_folder: Path, tmp_path: Path) -> None:
    """An empty file and one beyond all limits are known by their size: the shards are cut as without them."""
    raw = tmp_path / "raw"
    shutil.copytree(photo_folder, raw)
    expected = pack(
        raw, tmp_path / "a" / "set", PackSettings(max_shard_samples=6, train=1, val=0, test=0)
    ).manifest
    (raw / "cat" / "empty.jpg").touch()
    with (raw / "dog" / "huge.jpg").open("wb") as file:
        file.truncate(3 << 30)
    found = pack(
        raw, tmp_path / "b" / "set", PackSettings(max_shard_samples=6, train=1, val=0, test=0)
    ).manifest
    assert found.shards == expected.shards
    assert [shard.num_samples for shard in found.shards] == [6, 6, 6, 6]


def test_pictures_that_outgrow_their_files_do_not_change_the_cut(tmp_path: Path) -> None:
    """Turned JPEGs become PNGs, several times as large: the shards are cut by the files, whole or not."""
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    for number in range(12):
        photo(tmp_path / "raw" / "cat" / f"{number}.jpg", number, exif=turned)
    settings = PackSettings(max_shard_bytes=17_500, train=1, val=0, test=0)
    planned, _ = plan(discover(tmp_path / "raw"), settings)
    shards = cut(planned, ("cat",), settings)
    assert len(shards) == 3
    manifest = pack(tmp_path / "raw", tmp_path / "out", settings).manifest
    assert [shard.num_samples for shard in manifest.shards] == [len(shard.photos) for shard in shards]
    assert all(shard.num_bytes > 17_500 for shard in manifest.shards)


def test_other_settings_do_not_mix_with_an_interrupted_run(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    broken_photos(raw)
    before = interrupted(raw, out)
    with pytest.raises(SettingsError, match="max_shard_samples: 5 there, 6 asked for"):
        pack(raw, out, PackSettings(max_shard_samples=6))
    assert before == marks(out)


def test_a_run_that_made_no_shard_leaves_the_settings_open(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    broken_photos(raw)

    class Refuses:
        def map(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(raw, out, PackSettings(max_shard_samples=5), engine=Refuses())
    assert (out / "source" / "settings.json").exists()
    pack(raw, out, PackSettings(max_shard_samples=6))
    pack(raw, tmp_path / "fresh" / "out", PackSettings(max_shard_samples=6))
    contents = [path.read_bytes() for path in sorted((out / "source").iterdir())]
    assert contents == [path.read_bytes() for path in sorted((tmp_path / "fresh" / "out" / "source").iterdir())]


@pytest.mark.parametrize("change", ["bytes", "dates", "versions"])
def test_changed_photos_are_packed_from_the_start(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    broken_photos(raw)
    before = interrupted(raw, out)
    planned, _ = plan(discover(raw), PackSettings())
    first = raw / planned[0].file.path
    if change == "bytes":
        photo(first, 99, quality=95)
    elif change == "dates":
        data = bytearray(first.read_bytes())
        data[-3] ^= 1  # of the same size
        first.write_bytes(data)
        os.utime(first, (2e9, 2e9))
    else:
        monkeypatch.setattr("limla.packing.stage.library_versions", lambda names: dict.fromkeys(names, "9"))
    said = Said()
    pack(raw, out, PackSettings(max_shard_samples=5), said)
    assert any("packing from the start" in line for line in said.lines)
    after = marks(out)
    assert all(after[name] != mark for name, mark in before.items())
    pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5))
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_a_photo_that_changes_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    broken_photos(raw)
    planned, _ = plan(discover(raw), PackSettings())
    last = raw / planned[-1].file.path

    class Meanwhile:
        def __init__(self, change: Callable[[], object]) -> None:
            self.change = change

        def map(self, work: Any, items: Sequence[Any], advance: Callable[[int], None]) -> Iterator[Any]:
            self.change()
            yield from LocalEngine(1).map(work, items, advance)

    with pytest.raises(DataError, match=r"when the photos were listed, now it holds 3;"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(lambda: last.write_bytes(b"new")))
    with pytest.raises(DataError, match=r"3 bytes when the photos were listed, now it is gone;"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(last.unlink))
    with pytest.raises(DataError, match=r"every machine must see the photos under this path"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(lambda: raw.rename(tmp_path / "away")))
    assert not (tmp_path / "out" / "source" / FILE_NAME).exists()


def test_what_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    broken_photos(raw)
    planned, _ = plan(discover(raw), PackSettings())
    locked, real = planned[1].file.path, os.open

    def refuse(path: Any, *rest: Any) -> int:
        if str(path).endswith(f"raw/{locked}"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        interrupted(raw, out)
        assert "permission denied" in (out / "source" / "train-000000.part.json").read_text()
    said = Said()
    pack(raw, out, PackSettings(max_shard_samples=5), said)
    assert "2 of 9 shards are there already" in said.lines[0]
    pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5))
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_the_options_are_checked(tmp_path: Path) -> None:
    photo(tmp_path / "raw" / "cat" / "a.jpg")
    for options, word in (
        (("--train", "0.9"), "sum to 1"),
        (("--train", "nan"), "from 0 to 1"),
        (("--train", "1.1", "--val", "-0.1", "--test", "0"), "from 0 to 1"),
        (("--shard-images", "0"), "at least 1"),
        (("--shard-mb", "0"), "above 0"),
        (("--max-pixels", "0"), "at least 1"),
        (("--max-pixels", "999999999"), "at most"),
        (("--workers", "0"), "at least 1"),
    ):
        done = type_in("pack", tmp_path / "raw", tmp_path / "out", *options)
        assert done.exit_code == 2, options
        assert word in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_one_class_that_hides_the_real_ones(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photo(tmp_path / "raw" / "all" / name / "a.jpg")
    said = Said()
    pack(tmp_path / "raw", tmp_path / "out", PackSettings(), said)
    assert any("one class only, 'all'" in line and "raw/all" in line for line in said.lines)


@pytest.mark.slow
def test_real_photos(flowers: Path, tmp_path: Path) -> None:
    result = pack(flowers, tmp_path / "flowers", PackSettings())
    assert (result.packed, result.quarantined) == (600, 0)
    assert [result.manifest.num_samples(split) for split in ("train", "val", "test")] == [480, 60, 60]
    assert result.warnings == ()
