"""What is done with one file, and the unit of work: some files, one after another or spread over threads."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from limla.engines.base import Share
from limla.errors import DataError, LimlaError
from limla.files import write_bytes
from limla.pictures.files import pillow_silenced, read_regular

Value: TypeAlias = "str | int | float | None"
Row: TypeAlias = "dict[str, Value]"
"""What is recorded of one source: `SOURCE_COLUMNS`, then the conversion's own."""

SOURCE_COLUMNS: Mapping[str, type] = {
    "source": str,
    "source_num_bytes": int,
    "source_mtime_ns": int,
    "num_bytes": int,
}
"""Path below the folder of sources; its size and time when it was read; the bytes of all that was made of it."""


_WRITES_AT_ONCE = 16


class Source(NamedTuple):
    """One file that was found: path below the folder of sources, size in bytes, time of its last change."""

    path: str
    num_bytes: int
    mtime_ns: int


class Refused(NamedTuple):
    """A file of which nothing was made, and why."""

    path: str
    reason: str


class Conversion(Protocol):
    """One file → one or several others. Picklable and thread-safe; equal input gives equal bytes."""

    columns: ClassVar[Mapping[str, type]]
    """Name → int, float or str of the values that `convert` gives for each source."""

    def names(self, source: str, row: Row) -> Iterable[str]:
        """The files that were made of a source: paths below the folder of results, beside where it would lie there.

        With an empty `row`, before anything is made of it: those that there will be if there are any.
        """
        ...

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Make the files of one source, `write(name, bytes)` each; returns the values of `columns`.

        Raises a `LimlaError` with the reason for data of which nothing can be made.
        """
        ...


class Job(NamedTuple):
    """One source to convert; `is_ours` where what stands under the names of its results was made by an earlier run."""

    source: Source
    is_ours: bool


@dataclass(frozen=True)
class ConvertFiles:
    """Converts files; picklable, so that an engine can call it anywhere, and more than once for the same files.

    Attributes:
        root: the folder of sources; None where they are no files: the conversion is then given no bytes.
        folder: where the results go.
        conversion: what is done with each.
    """

    root: Path | None
    folder: Path
    conversion: Conversion

    def __call__(self, jobs: tuple[Job, ...], share: Share) -> list[Row | Refused]:
        """The rows of the files, in their order, when all that was made of them is on disk.

        Raises `DataError` where the sources cannot be seen from here, `OSError` when the disk is full.
        """
        if self.root is not None and not os.access(self.root, os.R_OK | os.X_OK):
            raise DataError(
                f"{self.root}: cannot be read on the machine that does the work; every machine must see the files "
                "under this path"
            )
        found: list[Row | Refused] = []
        with (
            pillow_silenced(),
            _Writer() as writer,
            closing(share.spread(functools.partial(self._convert, writer), jobs)) as results,
        ):
            for result in results:
                found.append(result if isinstance(result, Refused) else result.written())
                share.advance(1)
        return found

    def _convert(self, writer: _Writer, job: Job) -> _Converted | Refused:
        path, num_bytes, mtime_ns = job.source
        try:
            data = b"" if self.root is None else read_source(self.root, job.source)
        except DataError as error:
            return Refused(path, str(error))
        written = 0
        writing: list[Future[None]] = []

        def write(name: str, made: bytes) -> None:
            nonlocal written
            writing.append(writer.submit(self.folder / name, made, job.is_ours))
            written += len(made)

        try:
            values = self.conversion.convert(path, data, write)
        except LimlaError as error:
            return Refused(path, " ".join(str(error).split()))
        row: Row = {
            "source": path,
            "source_num_bytes": num_bytes,
            "source_mtime_ns": mtime_ns,
            "num_bytes": written,
            **values,
        }
        return _Converted(row, writing)


class _Converted(NamedTuple):
    """One source whose files are being written."""

    row: Row
    writing: list[Future[None]]

    def written(self) -> Row | Refused:
        """The row, when its files are on disk; raises `OSError` as writing them did."""
        try:
            for future in self.writing:
                future.result()
        except LimlaError as error:
            return Refused(str(self.row["source"]), str(error))
        return self.row


class _Writer:
    """Writes files beside the work that makes them, several at a time: nearly all of it is waiting for the disk."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_WRITES_AT_ONCE, thread_name_prefix="limla-write")
        # so that what waits to be written does not grow in memory
        self._places = threading.BoundedSemaphore(2 * _WRITES_AT_ONCE)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, path: Path, data: bytes, is_ours: bool) -> Future[None]:
        """Write a file soon, see `_put`; waits while too many are on their way."""
        self._places.acquire()
        try:
            future = self._pool.submit(_put, path, data, is_ours)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future


def read_source(root: Path, source: Source) -> bytes:
    """The bytes of a file that was found; raises `DataError` with the reason where they cannot be had."""
    try:
        data = read_regular(f"{root}/{source.path}")
    except OSError as error:
        raise DataError(f"cannot be read: {(error.strerror or type(error).__name__).lower()}") from error
    if len(data) != source.num_bytes:
        raise DataError(f"{source.num_bytes} bytes when the files were listed, now {len(data)}: run this again")
    return data


def _put(path: Path, data: bytes, is_ours: bool) -> None:
    """Write a file, whole or not at all, and never over another's; one that holds just this stays.

    Raises `DataError` for what is in the way.
    """
    try:
        _check_parents(path)
        if path.is_dir():
            raise DataError(f"a folder is in the way: {path}; move it away")
        if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        if not is_ours and os.path.lexists(path):
            raise DataError(f"another file is in the way: {path}; move it away, or choose another folder")
        write_bytes(path, data)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise DataError(f"{(error.strerror or 'no name for a file').lower()}: {path.name}") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):  # it came meanwhile, of another source's
            _check_parents(path)
            raise DataError(f"something is in the way: {path}; move it away") from error
        raise


def _check_parents(path: Path) -> None:
    """Raise `DataError` where a file stands in the place of a folder that `path` lies in."""
    for parent in path.parents:
        if parent.is_dir():
            return
        if os.path.lexists(parent) and not parent.is_dir():  # unless another thread has just made it
            raise DataError(f"a file is in the way: {parent}; {path.name} needs a folder there: move it away")
