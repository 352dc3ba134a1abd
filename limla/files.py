"""Whole files or none: every file limla writes appears complete under its name, or not at all.

The functions that take an `AnyPath` do the same in an object store (see `limla.storage`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from limla import storage
from limla.errors import SettingsError
from limla.paths import AnyPath, is_remote, is_whole_on_close
from limla.storage import TEMPORARY_SUFFIX, unique_name

__all__ = [
    "TEMPORARY_SUFFIX", "absolute", "atomic_open", "canonical_json", "check_visible", "content_id", "exclusive",
    "file_sha256", "remove_unfinished", "sync_folder", "write_bytes", "write_json",
]  # fmt: skip

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_open(path: AnyPath) -> Iterator[BinaryIO]:
    """Open `path` for binary writing so that it appears only when the block ends without an error.

    Temporary file in the same folder, fsync, rename, fsync of the folder: after a power cut the file is
    the old one or the new one. On an error (a full disk, Ctrl-C) the temporary file is removed. In an object
    store: an upload that is completed in the end, and given up on an error.

    Raises `OSError` naming the folder when there is no room in it.
    """
    if is_remote(path):
        with storage.upload(path) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(unique_name(path.name))
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename in (None, str(temporary)):
            # a failed write names nothing; of several files open at once this may be another, beside it
            raise OSError(error.errno, error.strerror, str(path.parent)) from error
        raise
    sync_folder(path.parent)


def absolute(path: AnyPath) -> AnyPath:
    """The same for a process with another working folder, or on another machine."""
    return path if is_remote(path) else path.absolute()


def check_visible(path: AnyPath) -> None:
    """Raise `SettingsError` when a file that another process, or machine, has written cannot be seen from here."""
    # of a network folder only a listing is never out of date
    if is_remote(path) or path.exists() or (path.parent.is_dir() and path in path.parent.iterdir()):
        return
    raise SettingsError(
        f"{path}: written by a task, and not to be seen here: every machine must see the folder {path.parent} under "
        "this path, shared (NFS, say), or the shards go into an object store (s3://…); docs/cluster.md"
    )


def sync_folder(folder: Path) -> None:
    """Make the renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_open(path) as file:
        file.write(data)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values give equal text, fit for hashing."""
    return _CANONICAL.encode(value)


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all; equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode())


def content_id(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_unfinished(folder: AnyPath) -> int:
    """Remove what a killed run left half-written in `folder` (not below it); returns how many files.

    In S3 and GCS such a thing has no name: a lifecycle rule of the bucket removes it.
    """
    if is_remote(folder) and is_whole_on_close(folder):
        return 0
    leftovers = [
        folder / name
        for name, num_bytes in storage.listing(folder).items()
        if name.endswith(TEMPORARY_SUFFIX) and num_bytes is not None
    ]
    storage.remove(leftovers)
    return len(leftovers)


@contextmanager
def exclusive(path: AnyPath, what: str) -> Iterator[None]:
    """Hold the lock file `path` for the block; the lock goes with the process, however that ends.

    Raises `SettingsError` naming `what` is under way when another process holds it. Object stores have no locks:
    in those that complete an upload (S3, GCS) two runs at once do the work twice, with the same bytes; in those that
    rename, one removes what the other is writing, so that must not be done.
    """
    if is_remote(path):
        yield
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SettingsError(
                    f"{path.parent}: {what} is under way in another process; wait for it or stop it"
                ) from error
            # the holder before us removes the file: make sure that ours is the one others will open
            if not is_at(descriptor, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that `descriptor` is open on."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
