"""Which files lie in a folder, and whether each may have its own name among the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from limla.errors import DataError, SettingsError
from limla.pictures.walking import Walker, printable, stem_and_suffix
from limla.trees.conversion import Source

_SHOWN = 5


@dataclass(frozen=True)
class Sources:
    """What was found.

    Attributes:
        root: the folder they lie in; None where they are no files, and there is nothing to read.
        files: sorted by path.
        skipped: reason → number of entries passed over.
    """

    root: Path | None
    files: tuple[Source, ...]
    skipped: Counter[str] = field(default_factory=Counter)


def find_sources(source: Path, suffixes: Collection[str], what: str, own: Collection[str] = ()) -> Sources:
    """The files under a folder whose suffix is one of `suffixes`, or the one file that `source` is.

    Links are followed, each folder is visited once; hidden entries and other files are counted as skipped.

    Args:
        source: folder or file.
        suffixes: lower-case, with the dot.
        what: is looked for ("pictures"), for error messages.
        own: names passed over without counting them.

    Raises `DataError` when there is nothing to find, a folder cannot be listed, or two files would have results of one
    name, because they differ in their suffix alone.
    """
    expected = f"{what} are {' '.join(sorted(suffixes))}"
    if source.is_file():
        suffix = stem_and_suffix(source.name)[1].lower()
        if suffix not in suffixes:
            raise DataError(f"{source}: not one of the {what}; {expected}")
        status = source.stat()
        return Sources(source.parent, (Source(source.name, status.st_size, status.st_mtime_ns),))
    if not source.is_dir():
        raise DataError(
            f"{source}: {'neither a folder nor a file' if source.exists() else 'no such folder or file'}"
        )
    skipped: Counter[str] = Counter()
    unreadable: list[str] = []
    walker = Walker(source, suffixes, skipped, unreadable, own)
    files = tuple(sorted(Source(*found) for found in walker.walk("")))
    if unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise DataError(
            f"{source}: cannot read the folder {unreadable[0]}{more}: without it files would be missing; "
            "check its owner and mode, or move it away"
        )
    if not files:
        others = f" among {skipped.total()} other entries" if skipped else ""
        raise DataError(f"{source}: no {what} there{others}; {expected}")
    _check_stems(source, files)
    return Sources(source, files, skipped)


def _check_stems(root: Path, files: tuple[Source, ...]) -> None:
    groups: dict[str, list[str]] = {}
    for file in files:
        folder, slash, _ = file.path.rpartition("/")
        groups.setdefault(f"{folder}{slash}{stem_and_suffix(file.path)[0]}", []).append(file.path)
    clashes = [" and ".join(map(printable, paths)) for paths in groups.values() if len(paths) > 1]
    if clashes:
        more = f"; and {len(clashes) - _SHOWN} more" if len(clashes) > _SHOWN else ""
        raise DataError(
            f"{root}: what is made of these would have one name: {'; '.join(clashes[:_SHOWN])}{more}; rename all "
            "but one of each"
        )


def check_apart(source: Path, folder: Path) -> None:
    """Raise `SettingsError` unless results can be written to `folder` without touching the sources."""
    of_source, of_folder = source.resolve(), folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file: choose a folder for the results")
    if of_folder.is_relative_to(of_source):
        raise SettingsError(f"{folder} lies inside {source}: choose a folder for the results outside of it")
    if source.is_dir() and of_source.is_relative_to(of_folder):
        raise SettingsError(f"{source} lies inside {folder}: choose another folder for the results")
    if of_source.parent == of_folder:
        raise SettingsError(f"{source} lies in {folder}: choose another folder for the results")
