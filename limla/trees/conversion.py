"""What is done with one file, and the unit of work: some files, one after another or spread over threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
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
        """The files that were made of a source: paths below the folder of results, beside where it would lie there."""
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
        with pillow_silenced(), closing(share.spread(self._convert, jobs)) as results:
            for result in results:
                found.append(result)
                share.advance(1)
        return found

    def _convert(self, job: Job) -> Row | Refused:
        path, num_bytes, mtime_ns = job.source
        try:
            data = b"" if self.root is None else read_source(self.root, job.source)
        except DataError as error:
            return Refused(path, str(error))
        written = 0

        def write(name: str, made: bytes) -> None:
            nonlocal written
            _put(self.folder / name, made, job.is_ours)
            written += len(made)

        try:
            values = self.conversion.convert(path, data, write)
        except LimlaError as error:
            return Refused(path, " ".join(str(error).split()))
        return {
            "source": path,
            "source_num_bytes": num_bytes,
            "source_mtime_ns": mtime_ns,
            "num_bytes": written,
            **values,
        }


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
        raise
