"""Which split an image goes to, where it stands in it, and under which key. Decided before anything is decoded."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError
from limla.manifest import SPLITS
from limla.packing.discovery import Discovery, SourceFile
from limla.packing.rows import Rows
from limla.packing.settings import PackSettings
from limla.pictures.walking import stem_and_suffix
from limla.shards import MAX_KEY_LENGTH

_MAX_CLASS_LENGTH = 40
_HASH_LENGTHS = (8, 16, 32)
_UNCLEAN = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Planned:
    """One file with its place.

    Attributes:
        file: the picture file.
        key: its sample key.
        label: the class index.
        split: "train", "val" or "test".
        rank: sorts the images of a split; mixes the classes.
    """

    file: SourceFile
    key: str
    label: int
    split: str
    rank: bytes


class Plan(Sequence[Planned]):
    """Every file with its place, in the order of the shards; kept in columns, some 60 bytes a file."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files
        self._keys: Rows[str] = Rows(str)
        self._numbers, self._labels, self._splits = array("I"), array("I"), array("B")
        self._ranks = bytearray()
        self._order: npt.NDArray[np.intp] = np.zeros(0, np.intp)

    def add(self, number: int, key: str, label: int, split: str, rank: bytes) -> None:
        """Add file `number`. Those that no rank tells apart stay in the order in which they were added."""
        self._numbers.append(number)
        self._keys.append(key)
        self._labels.append(label)
        self._splits.append(SPLITS.index(split))
        self._ranks += rank

    def sort(self) -> None:
        """Put the files into the order of the shards: by split and rank."""
        # 32 bytes compare as four big-endian numbers do
        ranks = np.frombuffer(self._ranks, dtype=">u8").reshape(-1, 4).astype(np.uint64)
        self._order = np.lexsort((*ranks.T[::-1], np.frombuffer(self._splits, dtype=np.uint8)))

    def splits(self) -> frozenset[str]:
        """The splits that hold files."""
        return frozenset(SPLITS[number] for number in set(self._splits))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, number: int) -> Planned: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Planned]: ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        place = int(self._order[number])
        return Planned(
            self._files[self._numbers[place]],
            self._keys[place],
            self._labels[place],
            SPLITS[self._splits[place]],
            bytes(self._ranks[32 * place : 32 * place + 32]),
        )


def plan(found: Discovery, settings: PackSettings) -> tuple[Plan, list[str]]:
    """Every file's split, key and place, in the order of the shards; and warnings about small classes.

    Within a class, files are ranked by SHA-256 of (seed, class, path inside the class) and cut by the fractions, so
    other classes may come and go without moving an image.

    Raises `SettingsError` when val is to come from a train folder and there is none, or there is a val folder.
    """
    _check_val_from_train(found, settings)
    slugs = class_slugs(found.class_names)
    planned = Plan(found.files)
    warnings: list[str] = []
    for label, numbers in enumerate(_by_class(found)):
        class_name = found.class_names[label]
        files = {number: found.files[number] for number in numbers}
        keys = file_keys(slugs[class_name], list(files.values()))
        ranked = sorted((_rank(settings.seed, file), file.path, number) for number, file in files.items())
        if found.layout == "class folders":
            counts = split_counts(len(files), settings.fractions())
            splits = [split for split in SPLITS for _ in range(counts[split])]
            missing = [
                split for split, share in settings.fractions().items() if share > 0 and not counts[split]
            ]
        else:
            splits = _given_splits([files[number].split for _, _, number in ranked], settings.val_from_train)
            missing = [split for split in planned_splits(found, settings) if split not in splits]
        if missing:
            plural = "image" if len(files) == 1 else "images"
            warnings.append(
                f"class '{class_name}' has {len(files)} {plural} and none of them in {', '.join(missing)}"
            )
        placed = [
            (rank, keys[path], split, number)
            for (rank, path, number), split in zip(ranked, splits, strict=True)
        ]
        for rank, key, split, number in sorted(placed):
            planned.add(number, key, label, split, rank)
    planned.sort()
    return planned, warnings


def _by_class(found: Discovery) -> Iterator[list[int]]:
    """The numbers of the files of each class, by class name, in the files' order."""
    labels = {name: label for label, name in enumerate(found.class_names)}
    of_file = np.fromiter((labels[file.class_name] for file in found.files), np.int32, len(found.files))
    order = np.argsort(of_file, kind="stable")
    ends = np.searchsorted(of_file[order], np.arange(len(labels)), side="right")
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        yield order[start:end].tolist()


def planned_splits(found: Discovery, settings: PackSettings) -> tuple[str, ...]:
    """The splits that are meant to hold images."""
    if found.layout == "class folders":
        return tuple(split for split, share in settings.fractions().items() if share > 0)
    return tuple(
        split for split in SPLITS if split in found.splits or (split == "val" and settings.val_from_train > 0)
    )


def _check_val_from_train(found: Discovery, settings: PackSettings) -> None:
    if settings.val_from_train == 0:
        return
    if found.layout == "class folders":
        raise SettingsError(
            "val from train is for photos in train/ and test/ folders, and these are in plain class folders: "
            "choose the shares of train, val and test instead"
        )
    if "val" in found.splits or "train" not in found.splits:
        there = ", ".join(found.splits)
        raise SettingsError(
            f"val from train needs a train folder and no val folder, and there are {there}: leave it out"
        )


def _given_splits(splits: list[str], val_from_train: float) -> list[str]:
    """The splits that ranked files of one class lie in, the last of the training files made val."""
    ranks = [number for number, split in enumerate(splits) if split == "train"]
    num_moved = split_counts(len(ranks), {"train": 1 - val_from_train, "val": val_from_train})["val"]
    moved = set(ranks[len(ranks) - num_moved :])
    return ["val" if number in moved else split for number, split in enumerate(splits)]


def _rank(seed: int, file: SourceFile) -> bytes:
    text = "\0".join((str(seed), file.class_name, file.inside))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def split_counts(num_images: int, fractions: dict[str, float]) -> dict[str, int]:
    """How many of a class's images each split gets.

    Largest remainder (Hamilton): whole parts first, then one each by falling remainder, ties in the order train,
    val, test. Then each split with a fraction above 0 that got none takes one from the largest, as long as that
    keeps one itself.
    """
    exact = {split: num_images * share for split, share in fractions.items()}
    counts = {split: int(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(fractions, key=lambda split: counts[split] - exact[split])
    for split in by_remainder[: num_images - sum(counts.values())]:
        counts[split] += 1
    for split, share in fractions.items():
        largest = max(counts, key=lambda name: counts[name])
        if share > 0 and counts[split] == 0 and counts[largest] > 1:
            counts[largest] -= 1
            counts[split] += 1
    return counts


def slug(text: str) -> str:
    """`text` as key characters: accents dropped, every run of others one "-"; "" when nothing is left."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return _UNCLEAN.sub("-", ascii_text).strip("-")


def class_slugs(class_names: Sequence[str]) -> dict[str, str]:
    """Class name → first part of its keys: the name itself where it is clean, else a slug with a hash."""
    found: dict[str, str] = {}
    for name in class_names:
        short = slug(name)
        clean = short == name and len(name) <= _MAX_CLASS_LENGTH
        found[name] = name if clean else _with_hash(short or "class", name, 8, _MAX_CLASS_LENGTH)
    times = _counted(found.values())
    # names that differ in case only must not meet in one folder on a file system that ignores case
    return {
        name: short
        if times[short.lower()] == 1
        else _with_hash(slug(name) or "class", name, 16, _MAX_CLASS_LENGTH)
        for name, short in found.items()
    }


def file_keys(class_slug: str, files: Sequence[SourceFile]) -> dict[str, str]:
    """Path → key of the files of one class.

    `<class>/<stem>` where the stem is clean and the only one of its class (in all splits, whatever the case), else
    `<class>/<slug of the stem>-<first 8 hexadecimal digits of SHA-256 of the path>`.
    """
    room = MAX_KEY_LENGTH - len(class_slug) - 1
    # a class may hold most of the photos: nothing is kept twice, or before it is needed
    slugs = {file.path: _short(file.path) for file in files}
    times = _counted(slugs.values())
    keys: dict[str, str] = {}
    unclean: list[str] = []
    for path, short in slugs.items():
        if len(short) <= room and times[short.lower()] == 1 and short == stem_and_suffix(path)[0]:
            keys[path] = short
        else:
            unclean.append(path)
    del times
    taken = {key.lower() for key in keys.values()} if unclean else set[str]()
    for path in unclean:
        for length in _HASH_LENGTHS:
            key = _with_hash(slugs[path], path, length, room)
            if key.lower() not in taken:
                break
        else:
            raise AssertionError(f"two files hash alike: {path}")
        taken.add(key.lower())
        keys[path] = key
    for path, key in keys.items():
        keys[path] = f"{class_slug}/{key}"
    return keys


def _short(path: str) -> str:
    """The slug of the file's stem; "image" when nothing is left."""
    return slug(stem_and_suffix(path)[0]) or "image"


def _with_hash(short: str, text: str, length: int, room: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]
    return f"{short[: room - length - 1]}-{digest}"


def _counted(names: Iterable[str]) -> Counter[str]:
    """How many of the names are the same, whatever their case."""
    return Counter(name.lower() for name in names)
