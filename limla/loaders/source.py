"""One split of one or more variant folders, checked against the manifests, with access to every sample."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limla.errors import DataError, SettingsError
from limla.manifest import Manifest, read_manifest, verify_shards
from limla.shards import ShardReader, index_path, read_index


@dataclass(frozen=True)
class Record:
    """One encoded sample.

    Attributes:
        key: the sample key.
        tar_path: the shard it lies in, for error messages.
        extension: of the image ("jpg", "png", …).
        image: the encoded image; a view of the shard, valid while the source is open.
        label: the class index, checked against the class names.
    """

    key: str
    tar_path: Path
    extension: str
    image: memoryview
    label: int


class ShardSource:
    """The shards a loader reads: a sample is known by its index, 0 to `num_samples` - 1, in shard order.

    Several folders (a mix of variants of one dataset) stand one after the other, so each image comes once
    per variant. Shards are opened when first read and stay open until `close`. Thread-safe.

    Attributes:
        split: "train", "val" or "test".
        class_names: index = label.
        tar_paths: the split's shards in order; empty shards are left out.
        counts: samples of each.
        num_samples: their sum.
    """

    def __init__(
        self, split: str, class_names: tuple[str, ...], tar_paths: Sequence[Path], counts: Sequence[int]
    ) -> None:
        self.split = split
        self.class_names = class_names
        self.tar_paths = tuple(tar_paths)
        self.counts = tuple(counts)
        self._starts = [0, *itertools.accumulate(counts)]
        self.num_samples = self._starts[-1]
        self._readers: dict[int, ShardReader] = {}
        self._lock = threading.Lock()

    def locate(self, index: int) -> tuple[int, int]:
        """(shard number, number within the shard) of a sample index."""
        shard = bisect.bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]

    def reader(self, shard: int) -> ShardReader:
        """The open reader of a shard; raises `DataError` when its index is not that of the manifest's tar."""
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = _open_reader(self.tar_paths[shard], self.counts[shard])
            return self._readers[shard]

    def read(self, index: int) -> Record:
        """The encoded sample at `index`; raises `DataError` naming the shard for a damaged member."""
        shard, number = self.locate(index)
        reader = self.reader(shard)
        place = reader.locations[number]
        label = self.check_label(reader.label(number), shard, place.key)
        return Record(place.key, reader.path, place.extension, reader.member(number, place.extension), label)

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of a sample as its `json` member records them."""
        shard, number = self.locate(index)
        reader = self.reader(shard)
        metadata = reader.metadata(number)
        try:
            return int(metadata["height"]), int(metadata["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{reader.path}: 'json' of '{reader.locations[number].key}' lacks height and width; "
                "make the shard again"
            ) from error

    def check_label(self, label: int, shard: int, key: str) -> int:
        """Return `label` if it is a class index, else raise `DataError`."""
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"{self.tar_paths[shard]}: sample '{key}' has class {label}, but the manifest lists "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1}); make the folder again"
            )
        return label

    def describe(self) -> str:
        """The folders, for error messages."""
        return ", ".join(dict.fromkeys(str(path.parent) for path in self.tar_paths))

    def close(self) -> None:
        """Unmap every shard."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()


def _open_reader(tar_path: Path, count: int) -> ShardReader:
    reader = ShardReader(tar_path)
    if len(reader) != count:
        reader.close()
        raise DataError(
            f"{index_path(tar_path)}: lists {len(reader)} samples, but the manifest says {count}; "
            "make the folder again"
        )
    return reader


def open_source(folders: Sequence[Path], split: str, verify_contents: bool = True) -> ShardSource:
    """Check one split of the given variant folders and return its shards.

    Raises `DataError` for a tar that is missing, truncated or altered, an index that is missing or of
    another length, an empty split, and folders that are not variants of one dataset (other class names or
    other keys); `SettingsError` when no folder, or one folder twice, is given.
    """
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise SettingsError("no shard folder to load from: name at least one variant folder")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SettingsError(f"a shard folder is named twice: {', '.join(map(str, folders))}")
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.num_samples(split) == 0:
            there = ", ".join(manifest.splits()) or "none"
            raise DataError(f"{folder}: no samples in the split '{split}'; splits with samples: {there}")
        if manifest.class_names != manifests[0].class_names:
            raise DataError(
                f"{folder} and {folders[0]} have different class names: a mix takes variants of one dataset"
            )
    tar_paths: list[Path] = []
    counts: list[int] = []
    for folder, manifest in zip(folders, manifests, strict=True):
        verify_shards(folder, manifest, split, contents=verify_contents)
        for shard in manifest.of_split(split):
            _check_index_length(folder / shard.name, shard.num_samples)
            if shard.num_samples:
                tar_paths.append(folder / shard.name)
                counts.append(shard.num_samples)
    _check_same_keys(folders, manifests, split)
    return ShardSource(split, manifests[0].class_names, tar_paths, counts)


def _check_index_length(tar_path: Path, count: int) -> None:
    """The first line of an index says how many samples it lists; the rest is checked when it is read."""
    path = index_path(tar_path)
    try:
        with path.open("rb") as file:
            words = file.readline(64).split()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; the folder is incomplete: make it again") from error
    if len(words) != 2 or words[1] != str(count).encode():
        raise DataError(
            f"{path}: does not list the {count} samples the manifest says the tar holds; make the folder again"
        )


def _check_same_keys(folders: Sequence[Path], manifests: Sequence[Manifest], split: str) -> None:
    if len(folders) < 2:
        return
    marks = []
    for folder, manifest in zip(folders, manifests, strict=True):
        keys = sorted(
            place.key for shard in manifest.of_split(split) for place in read_index(folder / shard.name)
        )
        marks.append(hashlib.sha256("\n".join(keys).encode()).digest())
    for folder, mark in zip(folders, marks, strict=True):
        if mark != marks[0]:
            raise DataError(
                f"{folder} and {folders[0]} hold different '{split}' samples: "
                "a mix takes variants made from the same source"
            )
