"""The few things done with files in a folder, which may lie in an object store (`limla.paths`).

The functions here ask a store as little as they can, and raise its errors as `limla.paths.explain` tells them.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from limla.paths import AnyPath, explain, explained, file_system, is_remote, is_whole_on_close

if TYPE_CHECKING:
    from typing_extensions import Buffer
    from upath import UPath

Item = TypeVar("Item")
Result = TypeVar("Result")

TEMPORARY_SUFFIX = ".limla-tmp"
"""Files with this suffix are unfinished."""
_NAME_BYTES = 255
"""The longest file name of the usual file systems."""
_PART_BYTES = 5 << 20
"""Of an upload in parts: S3's least, as each open file holds one or two of them in memory."""
_BUFFER_BYTES = 6 << 20
"""Gathered before a part is sent: what is flushed stops short by up to one write, and must not be too little."""
_RANGE_BYTES = 8 << 20
"""Of one request of a download."""
_RANGES_AHEAD = 4
_AT_ONCE = 16
"""Small objects asked for together."""
_SECONDS_TO_REPEAT = 20.0
"""A read that breaks off is begun again for so long; after that the last attempt's error is raised."""
_SECONDS_BETWEEN_READS = 0.5


def exists(path: AnyPath) -> bool:
    """Whether there is a file or folder."""
    if not is_remote(path):
        return path.exists()
    with explained(path):
        try:
            file_system(path).info(path.path)
        except FileNotFoundError as error:
            if explain(error, path):
                raise
            return False
        return True


def listing(folder: AnyPath) -> dict[str, int | None]:
    """Name → bytes of the files in a folder (None for a folder in it); empty where there is no such folder.

    One request for a thousand objects, in the place of one for each.
    """
    if not is_remote(folder):
        if not folder.is_dir():
            return {}
        found: dict[str, int | None] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # gone since, or a link to nothing
                    found[entry.name] = None if entry.is_dir() else entry.stat().st_size
        return found
    with explained(folder):
        try:
            infos = file_system(folder).ls(folder.path, detail=True)
        except FileNotFoundError as error:
            if explain(error, folder):
                raise
            return {}
    own = folder.path.strip("/")
    return {
        info["name"].rstrip("/").rsplit("/", 1)[-1]: None if info["type"] == "directory" else int(info["size"])
        for info in infos
        if info["name"].strip("/") != own
    }


def make_folder(folder: AnyPath) -> None:
    """Make a folder and those above it; an object store has none, there the bucket must exist."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
    elif is_whole_on_close(folder):
        listing(folder)  # raises for a bucket that is not there; fsspec's own mkdir would make it
    else:
        with explained(folder):
            file_system(folder).makedirs(folder.path, exist_ok=True)


def read_bytes(path: AnyPath) -> bytes:
    """A whole file; raises `FileNotFoundError` (with the file's name) when there is none."""
    if not is_remote(path):
        return path.read_bytes()
    with explained(path):
        try:
            # a range, as fsspec would ask for the size of a whole object first
            return _cat(path, 0, None)
        except FileNotFoundError as error:
            if explain(error, path):
                raise
            raise FileNotFoundError(2, "No such object", str(path)) from error


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of each item, in order, a few at a time: for what is mostly waiting for a store or a disk."""
    return _ahead(function, items, num_threads=_AT_ONCE, num_ahead=2 * _AT_ONCE)


def stream(path: UPath, num_bytes: int) -> Iterator[bytes]:
    """The first `num_bytes` of an object in pieces, in order; a few requests run ahead of the reader.

    A shorter object gives fewer bytes; `FileNotFoundError` when there is none.
    """

    def read(start: int) -> bytes:
        with explained(path):
            return _cat(path, start, min(start + _RANGE_BYTES, num_bytes))

    return _ahead(read, range(0, num_bytes, _RANGE_BYTES), num_threads=_RANGES_AHEAD, num_ahead=_RANGES_AHEAD)


def _ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, num_ahead: int
) -> Iterator[Result]:
    """The results in order; at most `num_ahead` are computed, or wait to be, before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="limla-store") as pool:
        try:
            for item in items:
                if len(waiting) >= num_ahead:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cat(path: UPath, start: int, end: int | None) -> bytes:
    until = time.monotonic() + _SECONDS_TO_REPEAT
    while True:
        try:
            data = file_system(path).cat_file(path.path, start=start, end=end)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EINVAL and "range" in str(error).lower():
                return b""  # HTTP 416: it ends before, or is empty
            if not _is_broken_off(error) or time.monotonic() > until:
                raise
            time.sleep(_SECONDS_BETWEEN_READS)
        else:
            assert isinstance(data, bytes)
            return data


def _is_broken_off(error: Exception) -> bool:
    """Whether an answer stopped in the middle: the client repeats only what fails before an answer begins."""
    kind = type(error).__name__
    return any(word in kind for word in ("Payload", "IncompleteRead", "ReadTimeout", "Disconnected"))


def remove(paths: Iterable[AnyPath]) -> None:
    """Remove files, where they are there; a store is asked once for many."""
    remote: list[UPath] = []
    for path in paths:
        if is_remote(path):
            remote.append(path)
        else:
            path.unlink(missing_ok=True)
    if not remote:
        return
    there = listing(remote[0].parent)
    names = [path.path for path in remote if path.name in there]
    if names:
        with explained(remote[0].parent):
            file_system(remote[0]).rm(names)


def unique_name(name: str) -> str:
    """A temporary file's name beside `name` that no other process takes, on this machine or another.

    A long name is cut, so that whatever can stand under `name` can be written first.
    """
    mark = f".{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    if len(name) > _NAME_BYTES // 4 and len(os.fsencode(name)) + len(mark) > _NAME_BYTES:
        name = os.fsencode(name)[: _NAME_BYTES - len(mark)].decode("utf-8", "ignore")
    return name + mark


@contextmanager
def upload(path: UPath) -> Iterator[BinaryIO]:
    """Open an object for writing; it appears whole when the block ends, and not at all after an error.

    The block's own errors, of another file say, pass as they are; those of the store are explained. It is sent in
    parts while it is written, by other threads, so that the writer hardly waits and memory stays flat. A process
    that is killed leaves nothing to be seen, but the parts of an S3 upload stay, and cost, until the bucket's
    lifecycle rule removes them.
    """
    atomic = is_whole_on_close(path)
    target = path if atomic else path.with_name(unique_name(path.name))
    with explained(path):
        if not atomic:
            file_system(path).makedirs(path.parent.path, exist_ok=True)
        raw = _Upload(path, file_system(path).open(target.path, "wb", block_size=_PART_BYTES))
    buffered = io.BufferedWriter(raw, _BUFFER_BYTES)
    try:
        yield buffered
        buffered.flush()
        raw.commit()
        if not atomic:
            with explained(path):
                _rename(target, path)
    except BaseException:
        with explained(path):
            raw.give_up(published_on_close=atomic)
            if not atomic and file_system(path).exists(target.path):
                file_system(path).rm(target.path)
        raise


def _rename(temporary: UPath, path: UPath) -> None:
    if file_system(path).exists(path.path):
        file_system(path).rm(path.path)
    file_system(path).mv(temporary.path, path.path)


@functools.cache
def _upload_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="limla-upload")


class _Upload(io.RawIOBase):
    """The raw side of an upload: one block at a time is on its way, in another thread.

    fsspec's files of object stores publish what they hold when they are closed, also by the garbage collector: after
    an error `give_up` must come before that.
    """

    def __init__(self, path: UPath, file: Any) -> None:
        super().__init__()
        self._path = path
        self._file = file
        self._sending: Future[Any] | None = None
        self._num_bytes = 0
        self._given_up = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._num_bytes

    def write(self, data: Buffer, /) -> int:
        block = bytes(data)
        if not self._given_up:  # else what is left in the buffer above is being thrown away
            self._wait()
            self._sending = _upload_threads().submit(self._file.write, block)
        self._num_bytes += len(block)
        return len(block)

    def _wait(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            with explained(self._path):
                sending.result()

    def commit(self) -> None:
        self._wait()
        with explained(self._path):
            self._file.close()

    def give_up(self, published_on_close: bool) -> None:
        """Let go of the file; one that closing would publish is thrown away instead."""
        if self._given_up:
            return
        self._given_up = True
        sending, self._sending = self._sending, None
        try:
            if sending is not None:
                sending.exception()  # the error that counts is the one being raised
            if published_on_close:
                self._file.discard()
        finally:
            if published_on_close:
                self._file.closed = True
            else:
                self._file.close()
