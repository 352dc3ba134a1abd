"""What lies in the folder of photos: which files are pictures, of which class, of which split."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from limla.errors import DataError
from limla.manifest import SPLITS
from limla.packing.rows import Rows

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"))
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder name (any case) → split."""
EXPECTED = "expected IN/<class>/… or IN/{train,val,test}/<class>/… with .jpg .png .bmp .tif or .webp files"
_SYSTEM_NAMES = frozenset(("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin"))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file with a picture's extension.

    Attributes:
        path: relative to the folder of photos, as the file system has it.
        split: of a folder that is split already, else "".
        class_name: the class folder's name, Unicode NFC.
        inside: path inside the class folder, Unicode NFC, with "/".
        num_bytes: of the file; 0 for a special file or a link to nothing.
        mtime_ns: when it was last written.
    """

    path: str
    split: str
    class_name: str
    inside: str
    num_bytes: int
    mtime_ns: int = 0

    @classmethod
    def parse(
        cls, folder: str, split: str, class_name: str, rest: str, num_bytes: str, mtime_ns: str
    ) -> SourceFile:
        """Of the texts in a `Rows`: `rest` is the path inside the class folder, as the file system has it."""
        inside = unicodedata.normalize("NFC", rest)
        return cls(f"{folder}/{rest}", split, class_name, inside, int(num_bytes), int(mtime_ns))


@dataclass
class Discovery:
    """What a folder of photos holds.

    Attributes:
        layout: "class folders" or "split folders".
        splits: the splits there are folders of; all three for class folders.
        class_names: sorted; of every class folder with at least one picture file.
        files: the picture files, sorted by path.
        stray: picture files outside every class folder, relative paths.
        skipped: reason → number of entries passed over.
        unreadable: folders that could not be listed, relative paths with the reason; `discover` refuses them.
        empty_classes: class folders without a picture file, relative paths.
        nested: for a single class: the folders in it, which may be the real classes.
    """

    layout: str = "class folders"
    splits: tuple[str, ...] = SPLITS
    class_names: tuple[str, ...] = ()
    files: Sequence[SourceFile] = ()
    stray: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)


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


def discover(root: Path) -> Discovery:
    """List the pictures under `root`; the result does not depend on the order the file system lists in.

    Links to files and folders are followed, a folder once per class. Hidden entries and files without a picture's
    extension are counted as skipped.

    Raises `DataError` when `root` or a folder in it cannot be read, holds no picture, or mixes split and class folders.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}; {EXPECTED}")
    found = Discovery()
    walker = _Walker(root, found)
    folders, files = walker.listing("")
    if found.unreadable:
        raise DataError(f"{root}: cannot be read: permission denied; check its owner and mode")
    found.stray += [path for path, _, _ in walker.pictures("", files)]
    split_folders = _split_folders(root, [PurePosixPath(folder).name for folder in folders])
    if split_folders:
        found.layout = "split folders"
        found.splits = tuple(split for split in SPLITS if split in split_folders)
        classes: list[tuple[str, str]] = []
        for split in found.splits:
            inner_folders, inner_files = walker.listing(split_folders[split])
            found.stray += [path for path, _, _ in walker.pictures(split_folders[split], inner_files)]
            classes += [(folder, split) for folder in inner_folders]
    else:
        classes = [(folder, "") for folder in folders]
    _take_classes(walker, classes)
    if found.unreadable:
        more = f" and {len(found.unreadable) - 1} more" if len(found.unreadable) > 1 else ""
        raise DataError(
            f"{root}: cannot read the folder {found.unreadable[0]}{more}: without it photos would be missing; "
            "check its owner and mode, or move it away"
        )
    if not found.files:
        where = (
            f"{len(found.stray)} pictures lie outside any class folder" if found.stray else "no pictures there"
        )
        raise DataError(f"{root}: {where}; {EXPECTED}")
    return found


def _split_folders(root: Path, names: list[str]) -> dict[str, str]:
    """Split → folder name when the folder is split already, else nothing."""
    known: dict[str, str] = {}
    for name in names:
        split = SPLIT_FOLDERS.get(name.lower())
        if split in known:
            raise DataError(
                f"{root}: '{known[split]}' and '{name}' both mean the {split} split; merge them into one"
            )
        if split:
            known[split] = name
    others = [name for name in names if name.lower() not in SPLIT_FOLDERS]
    if not others:
        return known
    if "train" in known and len(known) > 1:
        raise DataError(
            f"{root}: the folders {', '.join(known.values())} look like splits, but '{printable(others[0])}' lies "
            f"beside them; move one or the other away; {EXPECTED}"
        )
    return {}


def _take_classes(walker: _Walker, classes: list[tuple[str, str]]) -> None:
    """Fill in the files of class folders, each given with its split, so that they come sorted by path."""
    found = walker.found
    files = Rows(SourceFile.parse)
    class_names: set[str] = set()
    # the files of one class at a time: sorted at once, they would all be objects at once
    for folder, split in sorted(classes, key=lambda one: f"{one[0]}/"):
        class_name = printable(unicodedata.normalize("NFC", PurePosixPath(folder).name))
        pictures = sorted(walker.walk(folder))
        for path, num_bytes, mtime_ns in pictures:
            files.append(folder, split, class_name, path[len(folder) + 1 :], num_bytes, mtime_ns)
        if pictures:
            class_names.add(class_name)
        else:
            found.empty_classes.append(folder)
    found.files = files
    found.class_names = tuple(sorted(class_names))
    if len(classes) == 1 and not classes[0][1]:
        found.nested = [PurePosixPath(inner).name for inner in walker.peek(classes[0][0])]


class _Walker:
    def __init__(self, root: Path, found: Discovery) -> None:
        self._root = root
        self.found = found
        resolved = root.resolve()
        self._above = [folder.stat() for folder in (resolved, *resolved.parents)]

    def listing(self, folder: str) -> tuple[list[str], list[os.DirEntry[str]]]:
        """The folders (relative paths; real ones before links) and the other entries of `folder`, sorted."""
        try:
            with os.scandir(self._root / folder) as entries:
                shown = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.found.unreadable.append(
                f"{printable(folder or '.')}: {(error.strerror or str(error)).lower()}"
            )
            return [], []
        folders: list[tuple[bool, str]] = []
        files: list[os.DirEntry[str]] = []
        for entry in shown:
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                self.found.skipped["hidden or system folder" if is_folder else "hidden or system file"] += 1
            elif is_folder:
                path = f"{folder}/{entry.name}" if folder else entry.name
                folders.append((entry.is_symlink(), path))
            else:
                files.append(entry)
        return [path for _, path in sorted(folders)], files

    def pictures(self, folder: str, files: list[os.DirEntry[str]]) -> Iterator[tuple[str, int, int]]:
        """(relative path, size, mtime in ns) of the entries with a picture's extension; counts the others."""
        for entry in files:
            suffix = stem_and_suffix(entry.name)[1].lower()
            if suffix not in PICTURE_SUFFIXES:
                self.found.skipped[f"{printable(suffix)} file" if suffix else "file without extension"] += 1
                continue
            yield f"{folder}/{entry.name}" if folder else entry.name, *_size_and_time(entry)

    def walk(self, folder: str) -> Iterator[tuple[str, int, int]]:
        """(relative path, size, mtime in ns) of every picture file under `folder`, each real folder visited once."""
        # a link to a folder that holds the photos would bring in other classes, or the whole disk
        seen = {(status.st_dev, status.st_ino) for status in self._above}
        # links wait until all real folders are walked, so that a file keeps its own path when both lead to it
        real, links = [folder], list[str]()
        while real or links:
            current = real.pop() if real else links.pop()
            if not self._is_new(current, seen):
                self.found.skipped["folder reached again by a link"] += 1
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
        return _Walker(self._root, Discovery()).listing(folder)[0]


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
