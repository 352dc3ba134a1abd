"""The tar writer, its index, and the reader."""

from __future__ import annotations

import errno
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla import shards
from limla.errors import DataError
from limla.shard_reader import ShardReader, read_index
from limla.shards import MAX_KEY_LENGTH, check_key, index_path, open_shard, shard_name


def write(path: Path, *samples: tuple[str, bytes]) -> Path:
    with open_shard(path) as writer:
        for number, (key, image) in enumerate(samples):
            writer.add(
                key, {"jpg": image, "cls": str(number).encode(), "json": b'{"key": "' + key.encode() + b'"}'}
            )
    return path


@pytest.mark.parametrize("key", ["a", "cat/photo_1-b", "A/b/c/9", "x" * MAX_KEY_LENGTH])
def test_good_keys(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "a.b", "/a", "a/", "a//b", "a b", "é", "a\n", "..", "a/../b", "x" * (MAX_KEY_LENGTH + 1)]
)
def test_bad_keys(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not valid"):
        check_key(key)
    with pytest.raises(ValueError, match="not valid"):
        write(tmp_path / "a.tar", (key, b"x"))
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("shard")
    samples = [(f"c/{number}", image) for number, image in enumerate(images)]
    path = write(folder / "train-000000.tar", *samples)
    assert path.stat().st_size % 512 == 0
    with ShardReader(path) as reader:
        assert len(reader) == len(images)
        for number, sample in enumerate(reader):
            assert (sample.key, sample.extension, sample.label) == (f"c/{number}", "jpg", number)
            assert bytes(sample.image) == images[number]
            assert sample.metadata == {"key": f"c/{number}"}
            sample.image.release()
    again = write(folder / "other.tar", *samples)
    assert again.read_bytes() == path.read_bytes()
    assert index_path(again).read_bytes() == index_path(path).read_bytes()


def test_bytes_do_not_depend_on_how_much_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [(f"c/{number}", bytes([number]) * 700 * number) for number in range(9)]
    whole = write(tmp_path / "whole.tar", *samples)
    monkeypatch.setattr(shards, "_GATHERED_BYTES", 3000)
    in_pieces = write(tmp_path / "pieces.tar", *samples)
    assert in_pieces.read_bytes() == whole.read_bytes()
    assert index_path(in_pieces).read_bytes() == index_path(whole).read_bytes()


def test_plain_ustar_with_nothing_that_varies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("k" * MAX_KEY_LENGTH, b"image"), ("b", b""))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert [one.name for one in members[3:]] == ["b.jpg", "b.cls", "b.json"]
        for one in members:
            assert one.isreg()
            assert (one.mtime, one.uid, one.gid, one.mode, one.uname, one.gname) == (0, 0, 0, 0o644, "", "")
            assert one.pax_headers == {}
    # one header block each, and the data: no extension header
    data_blocks = sum(-(-one.size // 512) for one in members)
    assert path.stat().st_size == 512 * (len(members) + data_blocks + 2)


def test_the_entry_describes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setattr(shards, "_GATHERED_BYTES", 3000)
    path = tmp_path / shard_name("val", 3)
    with open_shard(path) as writer:
        for key in "abc":
            writer.add(key, {"jpg": 1000 * key.encode(), "cls": b"0"})
    entry = writer.entry(path.name, "val")
    assert (entry.name, entry.split, entry.num_samples) == ("val-000003.tar", "val", 3)
    assert entry.num_bytes == path.stat().st_size
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_error_leaves_neither_tar_nor_index(tmp_path: Path) -> None:
    def fill_the_disk() -> None:
        with open_shard(tmp_path / "a.tar") as writer:
            writer.add("a", {"jpg": b"1", "cls": b"0"})
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.1 1\njpg 512 1 a.jpg\n",
        "v1.2 2\njpg 512 1 a.jpg\n",
        "v1.2 1\njpg 512 999999 a.jpg\n",
        "v1.2 1\njpg 512 a.jpg\n",
        "v1.2 1\ncls 512 1 a.cls\n",
        "v1.2 x\n",
        "\u00e9",
    ],
)
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.tar", ("a", b"1"))
    index_path(path).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.idx: not a valid index"):
        read_index(path)


def test_a_missing_index_or_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("a", b"1"))
    index_path(path).unlink()
    with pytest.raises(DataError, match=r"a\.idx: missing"):
        read_index(path)
    path = write(tmp_path / "b.tar", ("a", b"1"))
    path.unlink()
    with pytest.raises(DataError, match=r"b\.tar: missing"):
        read_index(path)


def test_members_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with open_shard(path) as writer:
        writer.add("a", {"jpg": b"1", "cls": b"cat", "json": b"{"})
        writer.add("b", {"png": b"1"})
    with ShardReader(path) as reader:
        with pytest.raises(DataError, match="not a number"):
            reader.label(0)
        with pytest.raises(DataError, match="not JSON"):
            reader.metadata(0)
        with pytest.raises(DataError, match="'b' has no 'cls' member"):
            reader.label(1)
