"""What lies in the folder of photos: which files are pictures, of which class, of which split."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from limla.errors import DataError
from limla.manifest import SPLITS
from limla.packing.rows import Rows
from limla.pictures.walking import PICTURE_SUFFIXES, Walker, printable

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder name (any case) → split."""
EXPECTED = "expected IN/<class>/… or IN/{train,val,test}/<class>/… with .jpg .png .bmp .tif or .webp files"


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


def discover(root: Path) -> Discovery:
    """List the pictures under `root`; the result does not depend on the order the file system lists in.

    Links to files and folders are followed, a folder once per class. Hidden entries and files without a picture's
    extension are counted as skipped.

    Raises `DataError` when `root` or a folder in it cannot be read, holds no picture, or mixes split and class folders.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}; {EXPECTED}")
    found = Discovery()
    walker = Walker(root, PICTURE_SUFFIXES, found.skipped, found.unreadable)
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
    _take_classes(walker, classes, found)
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


def _take_classes(walker: Walker, classes: list[tuple[str, str]], found: Discovery) -> None:
    """Fill in the files of class folders, each given with its split, so that they come sorted by path."""
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
