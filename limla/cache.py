"""Shards of object stores on this machine: fetched once, checked against the manifest while they come.

`$LIMLA_CACHE_DIR/<sha256>.tar` with its index beside it; the name is the content, so a shard that is made again is
another file, and equal shards of two datasets are one. A file that is in use, or being fetched, is held by a
lock that goes with the process; `LIMLA_CACHE_BYTES` bounds the rest, and what was used longest ago goes first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from limla.errors import DataError, SettingsError
from limla.files import TEMPORARY_SUFFIX, file_sha256, is_at, write_bytes
from limla.shard_reader import parse_index
from limla.shards import ShardEntry, index_path
from limla.storage import read_bytes, stream

if TYPE_CHECKING:
    from upath import UPath

FOLDER_VARIABLE = "LIMLA_CACHE_DIR"
LIMIT_VARIABLE = "LIMLA_CACHE_BYTES"
_SECONDS_UNTIL_TOLD = 5.0
_SECONDS_BETWEEN_LOOKS = 0.05
_OTHER_FILES = 256
"""Maps of shards, sockets, libraries: what else a process may have open."""
_SECONDS_UNTIL_ORPHAN = 3600.0
"""An index is written at once: one half-written for longer is that of a killed process, of whichever machine."""
_NEVER = threading.Event()
_log = logging.getLogger(__name__)
_checked: set[tuple[str, int, int]] = set()


def cache_folder() -> Path:
    """Where fetched shards are kept: LIMLA_CACHE_DIR, else `limla` in the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "limla"


def cache_limit() -> int | None:
    """The bytes the cache may hold: LIMLA_CACHE_BYTES; None where it is not set."""
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal():
        raise SettingsError(f"{LIMIT_VARIABLE} is '{text}': write a number of bytes, as in 50000000000")
    return int(text)


class FetchCancelledError(Exception):
    """A fetch was called off: nobody waits for it."""


class LocalCopy:
    """A shard in the cache, held until `close`.

    Attributes:
        path: the tar; its index stands beside it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Let the cache remove the file when it needs the room."""
        os.close(self._descriptor)


def fetch(
    tar_path: UPath, shard: ShardEntry, recheck: bool = True, stop: threading.Event = _NEVER
) -> LocalCopy:
    """The copy of a shard in the cache, fetched if it is not there; several processes fetch it once.

    What comes over the network is always checked. With `recheck` a copy that was there already is hashed
    again, once in a process; one that has changed on the disk is fetched anew.

    Raises `DataError` when the object is missing or not what the manifest says, `OSError` naming the cache when
    its disk is full, `FetchCancelledError` when `stop` is set.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{shard.sha256}.tar"
    while True:
        copy = _held(path)
        if copy is None:
            _fetch_into(path, tar_path, shard, stop)
            continue
        try:
            if not recheck or _is_unchanged(path, shard):
                _fetch_index(path, tar_path, shard)
                return copy
        except BaseException:
            copy.close()
            raise
        _log.warning("%s: changed on this disk since it was fetched; fetching it again", path)
        path.unlink(missing_ok=True)
        copy.close()


def allow_copies(count: int) -> None:
    """Let this process hold `count` more copies: each is an open file, and the usual limit is 1024.

    Raises `SettingsError` when the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + sum(1 for _ in Path("/dev/fd").iterdir()) + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise SettingsError(
            f"{count} shards of a store need about {needed} open files, and the system allows {hard}: raise that with "
            "'ulimit -n' (and its hard limit), or pack into larger shards"
        )
    if soft != resource.RLIM_INFINITY and 2 * needed > soft:  # twice: the next split is opened beside this one
        wanted = 2 * needed if hard == resource.RLIM_INFINITY else min(2 * needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@contextmanager
def temporary_copy(tar_path: UPath, shard: ShardEntry) -> Iterator[Path]:
    """A checked copy of a shard that goes at the end of the block, for what reads it once; the cache's if it has it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    cached = _held(folder / f"{shard.sha256}.tar")
    if cached is not None:
        cached.close()
        with closing(fetch(tar_path, shard)) as copy:
            yield copy.path
        return
    _make_room(folder, shard.num_bytes)
    prefix = f"{_mark()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, suffix=TEMPORARY_SUFFIX) as temporary:
        path = Path(temporary) / shard.name
        _fetch_index(path, tar_path, shard)
        with path.open("wb", buffering=0) as file:
            _download(file, tar_path, shard, _NEVER)
        yield path


def _mark() -> str:
    return f"once-{socket.gethostname()}"


def _remove_orphans(folder: Path) -> None:
    """Remove what processes that were killed left half-fetched."""
    for left in folder.glob(f"*.tar{TEMPORARY_SUFFIX}"):
        _remove_unused(left)
    for left in folder.glob(f"*.idx.*{TEMPORARY_SUFFIX}"):
        with suppress(OSError):  # gone since, or another user's
            if time.time() - left.stat().st_mtime > _SECONDS_UNTIL_ORPHAN:
                left.unlink()
    for left in folder.glob(f"{_mark()}-*{TEMPORARY_SUFFIX}"):
        process = left.name.removeprefix(f"{_mark()}-").split("-")[0]
        if process.isdecimal() and not Path("/proc", process).exists():
            with suppress(OSError):
                for path in left.glob("*"):
                    path.unlink(missing_ok=True)
                left.rmdir()


def _held(path: Path) -> LocalCopy | None:
    """The file at `path` under a shared lock, marked as used now; None where there is none."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if is_at(descriptor, path):
                with suppress(OSError):  # a cache that others filled, and this user may only read
                    os.utime(descriptor)
                return LocalCopy(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_unchanged(path: Path, shard: ShardEntry) -> bool:
    status = path.stat()
    mark = (shard.sha256, status.st_ino, status.st_size)
    if mark not in _checked:
        if status.st_size != shard.num_bytes or file_sha256(path) != shard.sha256:
            return False
        _checked.add(mark)
    return True


def _fetch_index(path: Path, tar_path: UPath, shard: ShardEntry) -> None:
    """Bring the index beside the tar at `path`, if it is not there."""
    target, source = index_path(path), index_path(tar_path)
    if target.exists():
        return
    try:
        data = read_bytes(source)
    except FileNotFoundError as error:
        raise DataError(f"{source}: missing; the folder is incomplete: make it again") from error
    if len(parse_index(data, source, shard.num_bytes)) != shard.num_samples:
        raise DataError(
            f"{source}: does not list the {shard.num_samples} samples the manifest says the tar holds; "
            "remove the folder and make it again"
        )
    write_bytes(target, data)


def _fetch_into(path: Path, tar_path: UPath, shard: ShardEntry, stop: threading.Event) -> None:
    """Fetch a shard to `path`, unless another process has done so by the time it is this one's turn."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    # the lock is on the temporary file itself: whoever holds it writes, the others wait and then find `path`
    with temporary.open("ab", buffering=0) as file:
        if not _wait_for_turn(file.fileno(), temporary, stop):
            return
        try:
            if path.exists():
                temporary.unlink()
                return
            file.truncate(0)
            _make_room(path.parent, shard.num_bytes)
            _fetch_index(path, tar_path, shard)
            _download(file, tar_path, shard, stop)
            os.fsync(file.fileno())
            temporary.replace(path)
            status = os.fstat(file.fileno())
            _checked.add((shard.sha256, status.st_ino, status.st_size))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _wait_for_turn(descriptor: int, temporary: Path, stop: threading.Event) -> bool:
    """Lock the file; False when it is no longer the temporary one.

    Not by a lock that waits: once the file is whole it has another name, and those who use it hold it.
    """
    while True:
        if not is_at(descriptor, temporary):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stop.wait(_SECONDS_BETWEEN_LOOKS):
                raise FetchCancelledError(str(temporary)) from None
        else:
            return is_at(descriptor, temporary)


def _download(file: io.FileIO, tar_path: UPath, shard: ShardEntry, stop: threading.Event) -> None:
    """Copy an object into `file`, and raise `DataError` when it is not what the manifest says."""
    started = told = time.monotonic()
    digest = hashlib.sha256()
    done = 0
    try:
        for piece in stream(tar_path, shard.num_bytes):
            if stop.is_set():
                raise FetchCancelledError(str(tar_path))
            digest.update(piece)
            _write_all(file, piece)
            done += len(piece)
            now = time.monotonic()
            if now - told > _SECONDS_UNTIL_TOLD:
                told = now
                _log.warning(
                    "fetching %s: %.0f of %.0f MB, %.1f MB/s",
                    *(tar_path, done / 1e6, shard.num_bytes / 1e6, done / 1e6 / (now - started)),
                )
    except FileNotFoundError as error:
        raise DataError(
            f"{tar_path}: missing, though the manifest lists it; remove the folder and make it again"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no room for {tar_path} ({shard.num_bytes} bytes): name a folder on a larger disk in "
                f"{FOLDER_VARIABLE}, or bound the cache with {LIMIT_VARIABLE}",
                str(cache_folder()),
            ) from error
        raise
    if done != shard.num_bytes:
        raise DataError(
            f"{tar_path}: {done} bytes, but the manifest says {shard.num_bytes}: truncated or altered; "
            "remove the folder and make it again"
        )
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{tar_path}: altered since it was made (its SHA-256 differs); remove the folder and make it again"
        )


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Unbuffered, so that a full disk shows here and not when the file is closed."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove what was used longest ago until `num_bytes` more are within the limit; what is in use stays."""
    _remove_orphans(folder)
    limit = cache_limit()
    if limit is None:
        return
    tars: list[tuple[float, int, Path]] = []
    for path in folder.glob("*.tar"):
        with suppress(FileNotFoundError):
            status = path.stat()
            tars.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in tars) + num_bytes - limit
    for _, size, path in sorted(tars):
        if excess <= 0:
            return
        if _remove_unused(path):
            excess -= size


def _remove_unused(path: Path) -> bool:
    """Remove a file, a tar's index too, unless it is in use; False when it stays, as that of another user may."""
    try:
        # for writing, as NFS gives an exclusive lock to no other descriptor
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_at(descriptor, path):  # removed since, and perhaps fetched anew: that one is not ours
            return not path.exists()
        if path.suffix == ".tar":
            index_path(path).unlink(
                missing_ok=True
            )  # first: an index without its tar would never be found again
        path.unlink(missing_ok=True)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
