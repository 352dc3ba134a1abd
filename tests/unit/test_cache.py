"""Shards of a store on this machine: fetched once, checked, shared, removed when room is needed."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch

from limla import cache
from limla.cache import FetchCancelledError, fetch, temporary_copy
from limla.errors import DataError, SettingsError
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.source import open_source
from limla.manifest import read_manifest, verify_shards
from limla.paths import AnyPath, is_remote, open_folder
from limla.registry import LOADERS
from limla.shard_reader import read_index
from limla.shards import ShardEntry, index_path
from limla.storage import read_bytes, unique_name
from limla.types import Preprocessing
from tests.variants import member, write_variant

_numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyPath:
    """A variant of four test shards in a store, and an empty cache."""
    monkeypatch.setenv("LIMLA_CACHE_DIR", str(tmp_path / "cache"))
    path = open_folder(f"memory://cache-{next(_numbers)}/things/source")
    make(path)
    return path


def make(folder: AnyPath) -> None:
    shards = [[member(number, 40, 50) for number in range(3 * start, 3 * start + 3)] for start in range(4)]
    write_variant(folder, {"test": shards, "train": [[member(number, 40, 50) for number in range(20, 25)]]})


def shard_of(folder: AnyPath, number: int = 0) -> tuple[AnyPath, ShardEntry]:
    shard = read_manifest(folder).of_split("test")[number]
    return folder / shard.name, shard


def fetched(path: AnyPath, shard: ShardEntry) -> Path:
    """Fetch and let go."""
    assert is_remote(path)
    with closing(fetch(path, shard)) as copy:
        return copy.path


def test_a_copy_is_the_shard_with_its_index(folder: AnyPath) -> None:
    path, shard = shard_of(folder)
    copy = fetched(path, shard)
    assert copy.read_bytes() == read_bytes(path)
    assert [place.key for place in read_index(copy)] == [place.key for place in read_index(path)]
    assert sorted(left.name for left in copy.parent.iterdir()) == [f"{shard.sha256}.idx", f"{shard.sha256}.tar"]


def test_a_copy_is_used_again_without_the_store(folder: AnyPath) -> None:
    path, shard = shard_of(folder)
    copy = fetched(path, shard)
    path.unlink()
    index_path(path).unlink()
    assert fetched(path, shard) == copy


def test_a_copy_that_changed_on_the_disk_is_fetched_again(
    folder: AnyPath, caplog: pytest.LogCaptureFixture
) -> None:
    path, shard = shard_of(folder)
    copy = fetched(path, shard)
    for spoil in (b"x" * shard.num_bytes, b"short"):
        replaced = copy.with_name("new")
        replaced.write_bytes(spoil)
        replaced.replace(copy)
        assert fetched(path, shard).read_bytes() == read_bytes(path)
    assert "changed on this disk" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:], "altered since it was made"),
        (lambda data: data[:-512], "truncated or altered"),
        (lambda data: b"", "truncated or altered"),
    ],
)
def test_a_damaged_object_is_refused_and_leaves_no_copy(
    folder: AnyPath, spoil: object, message: str, tmp_path: Path
) -> None:
    path, shard = shard_of(folder)
    path.write_bytes(spoil(read_bytes(path)))  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        fetched(path, shard)
    assert str(path) in str(error.value)
    assert not list((tmp_path / "cache").glob("*.tar*"))


def test_a_missing_object_and_a_wrong_index_are_named(folder: AnyPath) -> None:
    path, shard = shard_of(folder)
    other, _ = shard_of(folder, 1)
    index = read_bytes(index_path(path))
    index_path(path).write_bytes(index.replace(b"v1.2 3", b"v1.2 2").rsplit(b"\n", 2)[0] + b"\n")
    with pytest.raises(DataError, match="does not list the 3 samples"):
        fetched(path, shard)
    index_path(path).write_bytes(index)
    path.unlink()
    with pytest.raises(DataError, match="missing, though the manifest lists it"):
        fetched(path, shard)
    index_path(other).unlink()
    with pytest.raises(DataError, match="missing; the folder is incomplete"):
        fetched(*shard_of(folder, 1))


def test_what_was_used_longest_ago_makes_room(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [shard_of(folder, number) for number in range(4)]
    room = sum(shard.num_bytes for _, shard in shards[:3])
    monkeypatch.setenv("LIMLA_CACHE_BYTES", str(room))
    copies = [fetched(*shards[number]) for number in range(3)]
    for age, copy in zip((30, 10, 20), copies, strict=True):
        os.utime(copy, (time.time() - age, time.time() - age))
    fetched(*shards[0])  # the oldest, but used now
    fetched(*shards[3])
    assert [copy.exists() for copy in copies] == [True, True, False]
    assert not index_path(copies[2]).exists()


def test_a_copy_in_use_stays(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMLA_CACHE_BYTES", "1")
    path, shard = shard_of(folder)
    assert is_remote(path)
    with closing(fetch(path, shard)) as copy:
        fetched(*shard_of(folder, 1))
        assert copy.path.exists()
    fetched(*shard_of(folder, 2))
    assert not copy.path.exists()


def test_a_shared_cache_keeps_what_may_not_be_removed(
    folder: AnyPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file, a disk that gives no lock: the shard is fetched, though the limit is passed."""
    monkeypatch.setenv("LIMLA_CACHE_BYTES", "1")
    real_open, real_flock, kept = os.open, fcntl.flock, fetched(*shard_of(folder))
    flags: list[int] = []

    def refused(path: object, mode: int, *more: int) -> int:
        if path == kept:
            flags.append(mode)
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, mode, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "open", refused)
        fetched(*shard_of(folder, 1))
    assert flags == [os.O_RDWR], "NFS locks exclusively only what is open for writing"

    def no_lock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB and os.path.samestat(os.fstat(descriptor), kept.stat()):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real_flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(cache.fcntl, "flock", no_lock)
        fetched(*shard_of(folder, 2))
    assert kept.exists()
    assert index_path(kept).exists()
    fetched(*shard_of(folder, 3))
    assert not kept.exists()


def test_a_copy_fetched_anew_is_not_the_one_to_remove(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = fetched(*shard_of(folder))
    real_flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        copy.with_name("new").write_bytes(copy.read_bytes())
        copy.with_name("new").replace(copy)
        real_flock(descriptor, operation)

    monkeypatch.setattr(cache.fcntl, "flock", late)
    assert not cache._remove_unused(copy)
    assert copy.exists()
    assert index_path(copy).exists()


def test_a_process_killed_while_removing_leaves_no_index_alone(
    folder: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = fetched(*shard_of(folder))
    removed: list[Path] = []
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: removed.append(path))
    assert cache._remove_unused(copy)
    assert removed == [index_path(copy), copy]


def test_half_an_index_of_a_killed_process_goes_after_an_hour(folder: AnyPath, tmp_path: Path) -> None:
    path, shard = shard_of(folder)
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / unique_name(f"{name}.idx") for name in "ab")
    for left, age in ((old, 4000), (new, 100)):
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age, time.time() - age))
    fetched(path, shard)
    assert (old.exists(), new.exists()) == (False, True)


def test_more_copies_than_the_usual_limit_of_open_files(
    folder: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = [(1024, 4096)]
    monkeypatch.setattr(cache.resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(cache.resource, "setrlimit", lambda kind, both: limits.append(both))
    open_source([folder], "test").close()
    assert limits == [(1024, 4096)], "four shards fit"
    cache.allow_copies(1700)
    assert limits[1:] == [(limits[-1][0], 4096)]
    assert limits[-1][0] > 2 * 1700
    monkeypatch.setattr(cache, "_OTHER_FILES", 4090)
    with pytest.raises(SettingsError, match=r"4 shards of a store need about \d+ open files.*'ulimit -n'"):
        open_source([folder], "test")


def test_a_limit_that_is_no_number_is_refused(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMLA_CACHE_BYTES", "50 GB")
    with pytest.raises(SettingsError, match="LIMLA_CACHE_BYTES is '50 GB'"):
        fetched(*shard_of(folder))


def test_a_full_disk_names_the_cache(folder: AnyPath, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_write_all", full)
        with pytest.raises(OSError, match="LIMLA_CACHE_DIR") as error:
            fetched(*shard_of(folder))
    assert error.value.filename == str(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tar*"))


def test_a_passing_copy_goes_and_so_do_those_of_killed_processes(folder: AnyPath, tmp_path: Path) -> None:
    path, shard = shard_of(folder)
    assert is_remote(path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    orphan = tmp_path / "cache" / f"{cache._mark()}-{ended.pid}-abc.limla-tmp"
    orphan.mkdir(parents=True)
    (orphan / "x.tar").write_bytes(b"x")
    with temporary_copy(path, shard) as copy:
        assert copy.name == path.name
        assert copy.read_bytes() == read_bytes(path)
        assert len(read_index(copy)) == shard.num_samples
        assert not orphan.exists()
    assert not list((tmp_path / "cache").iterdir())
    kept = fetched(path, shard)
    with temporary_copy(path, shard) as copy:
        assert copy == kept
    assert kept.exists()


def test_what_a_killed_fetch_left_is_used_by_none(folder: AnyPath, tmp_path: Path) -> None:
    path, shard = shard_of(folder)
    _, other = shard_of(folder, 1)
    (tmp_path / "cache").mkdir()
    for entry in (shard, other):
        (tmp_path / "cache" / f"{entry.sha256}.tar.limla-tmp").write_bytes(b"half")
    assert fetched(path, shard).read_bytes() == read_bytes(path)
    assert not list((tmp_path / "cache").glob("*.limla-tmp"))


def test_a_fetch_that_nobody_waits_for_is_given_up(folder: AnyPath, tmp_path: Path) -> None:
    path, shard = shard_of(folder)
    assert is_remote(path)
    stop = threading.Event()
    stop.set()
    with pytest.raises(FetchCancelledError):
        fetch(path, shard, stop=stop)
    assert not list((tmp_path / "cache").glob("*.tar*"))


def test_threads_that_need_one_shard_fetch_it_once(folder: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shard = shard_of(folder)
    calls: list[object] = []
    real = cache.stream

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        time.sleep(0.05)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "stream", counted)
    assert is_remote(path)
    with ThreadPoolExecutor(6) as pool:
        # all hold their copies while the last ones still wait for theirs
        waiting = [pool.submit(fetch, path, shard) for _ in range(6)]
        copies = [future.result(timeout=10) for future in waiting]
    assert len({copy.path for copy in copies}) == len(calls) == 1
    for copy in copies:
        copy.close()


def test_the_next_shards_are_fetched_ahead(folder: AnyPath, tmp_path: Path) -> None:
    with closing(open_source([folder], "test")) as source:
        assert not (tmp_path / "cache").exists(), "nothing is fetched before it is needed"
        source.read(0)
        end = time.monotonic() + 10
        while len(list((tmp_path / "cache").glob("*.tar"))) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 3, "two ahead, not more"
        assert source.read(4).tar_path == folder / "test-000001.tar"


def test_presence_and_sizes_are_checked_before_the_first_batch(folder: AnyPath) -> None:
    manifest = read_manifest(folder)
    path = folder / "test-000002.tar"
    path.write_bytes(read_bytes(path)[:-512])
    for check in (
        lambda: open_source([folder], "test", verify_contents=False),
        lambda: verify_shards(folder, manifest, "test"),
    ):
        with pytest.raises(DataError, match=r"test-000002.tar: \d+ bytes, but the manifest says"):
            check()
    index_path(folder / "test-000001.tar").unlink()
    with pytest.raises(DataError, match=r"test-000001.idx: missing"):
        open_source([folder], "test")
    verify_shards(folder, manifest, "train")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LOADERS.names())
def test_every_loader_gives_the_batches_of_the_local_folder(
    name: str, training: bool, folder: AnyPath, tmp_path: Path
) -> None:
    make(tmp_path / "things" / "source")
    passes = []
    for place in (tmp_path / "things" / "source", folder):
        settings = LoaderSettings(
            preprocessing=Preprocessing(image_size=28), batch_size=5, num_threads=1, training=training
        )
        with closing(open_loader(name, [place], "test", settings)) as loader:
            passes.append([list(loader), list(loader)])
    for batches, others in zip(*passes, strict=True):
        assert [batch.keys for batch in batches] == [batch.keys for batch in others]
        assert all(torch.equal(a.images, b.images) for a, b in zip(batches, others, strict=True))
        assert all(torch.equal(a.labels, b.labels) for a, b in zip(batches, others, strict=True))
