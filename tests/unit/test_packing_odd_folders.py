"""Whatever lies in the folder of photos: what is not a picture, not readable, not where it should be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from limla.errors import DataError, SettingsError
from limla.manifest import FILE_NAME
from limla.packing import PackSettings, pack
from limla.packing.verification import verify_variant
from tests.listening import Listening
from tests.unit.photos import broken_photos, photo, quarantined, samples, type_in


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
    said = Listening()
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


def test_an_unreadable_file_is_quarantined_and_a_folder_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    photo(raw / "cat" / "a.jpg")
    photo(raw / "cat" / "locked.jpg")
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
    result = pack(raw, tmp_path / "out", PackSettings())
    assert quarantined(result) == {"cat/locked.jpg": "cannot be read: permission denied"}
    assert result.packed == 2
    for locked in ("dog/locked", "locked"):
        (raw / locked).mkdir()
        with pytest.raises(DataError, match=f"cannot read the folder {locked}: permission denied"):
            pack(raw, tmp_path / "more", PackSettings())
        (raw / locked).rmdir()
    assert not (tmp_path / "more").exists()


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


def test_one_class_that_hides_the_real_ones(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photo(tmp_path / "raw" / "all" / name / "a.jpg")
    said = Listening()
    pack(tmp_path / "raw", tmp_path / "out", PackSettings(), said)
    assert any("one class only, 'all'" in line and "raw/all" in line for line in said.lines)
