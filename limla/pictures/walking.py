"""What lies in a folder: files by their extension, links followed once, names shown as one line of text."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"))
_SYSTEM_NAMES = frozenset(("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin"))


def printable(path: str) -> str:
    """`path` as one line of valid Unicode: bytes that are not UTF-8, and control characters, as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def stem_and_suffix(path: str) -> tuple[str, str]:
    """Those of `PurePosixPath(path)`, which would keep every name it has seen in a table of the interpreter's."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


class Walker:
    """Lists what lies under a folder, in an order that does not depend on the file system's.

    Args:
        root: the folder.
        suffixes: of the files that are wanted, lower-case, with the dot.
        skipped: counts reason → entries passed over.
        unreadable: gathers the folders that could not be listed, relative paths with the reason.
        own: names that are passed over without counting them.
    """

    def __init__(
        self,
        root: Path,
        suffixes: Container[str],
        skipped: Counter[str],
        unreadable: list[str],
        own: Container[str] = (),
    ) -> None:
        self._root = root
        self._suffixes = suffixes
        self._own = own
        self._skipped = skipped
        self._unreadable = unreadable
        resolved = root.resolve()
        self._above = [folder.stat() for folder in (resolved, *resolved.parents)]

    def listing(self, folder: str) -> tuple[list[str], list[os.DirEntry[str]]]:
        """The folders (relative paths; real ones before links) and the other entries of `folder`, sorted."""
        try:
            with os.scandir(self._root / folder) as entries:
                shown = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._unreadable.append(f"{printable(folder or '.')}: {(error.strerror or str(error)).lower()}")
            return [], []
        folders: list[tuple[bool, str]] = []
        files: list[os.DirEntry[str]] = []
        for entry in shown:
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                self._skipped["hidden or system folder" if is_folder else "hidden or system file"] += 1
            elif is_folder:
                path = f"{folder}/{entry.name}" if folder else entry.name
                folders.append((entry.is_symlink(), path))
            else:
                files.append(entry)
        return [path for _, path in sorted(folders)], files

    def pictures(self, folder: str, files: list[os.DirEntry[str]]) -> Iterator[tuple[str, int, int]]:
        """(relative path, size, mtime in ns) of the entries with a wanted suffix; counts the others."""
        for entry in files:
            if entry.name in self._own:
                continue
            suffix = stem_and_suffix(entry.name)[1].lower()
            if suffix not in self._suffixes:
                self._skipped[f"{printable(suffix)} file" if suffix else "file without extension"] += 1
                continue
            yield f"{folder}/{entry.name}" if folder else entry.name, *_size_and_time(entry)

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        """(relative path, size, mtime in ns) of every wanted file under `folder` ("" is the root itself).

        Each real folder is visited once. A file that cannot be looked at has size and time 0.
        """
        # a link to a folder that holds the root would bring in what lies beside it, or the whole disk
        above = self._above if folder else self._above[1:]
        seen = {(status.st_dev, status.st_ino) for status in above}
        # links wait until all real folders are walked, so that a file keeps its own path when both lead to it
        real, links = [folder], list[str]()
        while real or links:
            current = real.pop() if real else links.pop()
            if not self._is_new(current, seen):
                self._skipped["folder reached again by a link"] += 1
                continue
            folders, files = self.listing(current)
            yield from self.pictures(current, files)
            for inner in reversed(folders):
                (links if (self._root / inner).is_symlink() else real).append(inner)

    def _is_new(self, folder: str, seen: set[tuple[int, int]]) -> bool:
        try:
            status = (self._root / folder).stat()
        except OSError:
            return True  # the listing that follows reports it
        mark = (status.st_dev, status.st_ino)
        if mark in seen:
            return False
        seen.add(mark)
        return True

    def peek(self, folder: str) -> list[str]:
        """The folders in `folder`, without counting anything."""
        return Walker(self._root, self._suffixes, Counter(), []).listing(folder)[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except (
        OSError
    ):  # a link that leads to itself: listed as a file, and quarantined if it is named like a picture
        return False


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = os.stat(entry)  # noqa: PTH116 - an entry keeps what its own method finds: half a kilobyte
    except OSError:
        return 0, 0
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (0, 0)
