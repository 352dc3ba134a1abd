"""A folder of photos becomes source shards: whole, counted, split, repeatable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import PIL.Image
import pytest

from limla.errors import DataError, SettingsError
from limla.manifest import read_manifest, verify_shards
from limla.packing import PackSettings, pack
from limla.packing.discovery import discover
from limla.packing.planning import cut
from limla.packing.splitting import plan
from limla.packing.verification import verify_variant
from limla.results import read_encodings
from tests.listening import Listening
from tests.unit.photos import contents, photo, quarantined, samples, type_in


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

    monkeypatch.setattr("limla.pictures.walking.os.scandir", Backwards)
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
    said = Listening()
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
    said = Listening()
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


@pytest.mark.slow
def test_real_photos(flowers: Path, tmp_path: Path) -> None:
    result = pack(flowers, tmp_path / "flowers", PackSettings())
    assert (result.packed, result.quarantined) == (600, 0)
    assert [result.manifest.num_samples(split) for split in ("train", "val", "test")] == [480, 60, 60]
    assert result.warnings == ()
