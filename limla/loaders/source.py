"""One split of one or more variant folders, checked against the manifests, with access to every sample.

Shards of an object store are read from copies in the cache (`limla.cache`): fetched when first needed, and the next
ones in order while the current one is decoded.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from limla.cache import LocalCopy, allow_copies, fetch
from limla.codecs.base import Codec
from limla.codecs.decoding import extension_of, learned_codec
from limla.errors import DataError, SettingsError
from limla.manifest import SOURCE, Manifest, check_sizes, read_manifest, verify_shards
from limla.paths import AnyPath, is_remote
from limla.shard_reader import ShardIndex, ShardReader, read_indexes
from limla.shards import ShardEntry, index_path

_FETCHES_AT_ONCE = 3
_MAPPED_AT_ONCE = 64
"""Each map holds a file open, and a process may have a thousand; mapping one again costs 20 µs."""


class Record(NamedTuple):
    """One encoded sample.

    Attributes:
        key: the sample key.
        tar_path: the shard it lies in, for error messages.
        extension: of the image ("jpg", "png", …).
        image: the encoded image; a view of the shard, which stays mapped as long as a view is held.
        label: the class index, checked against the class names.
        codec: reads the image where its extension alone does not say how: a learned one, with its weights.
    """

    key: str
    tar_path: AnyPath
    extension: str
    image: memoryview
    label: int
    codec: Codec | None = None


class Written(NamedTuple):
    """What a codec wrote in a folder: the extension of its files, and the learned codec that alone reads them."""

    extension: str
    codec: Codec | None


class ShardSource:
    """The shards a loader reads: a sample is known by its index, 0 to `num_samples` - 1, in shard order.

    Several folders (a mix of variants of one dataset) stand one after the other, so each image comes once
    per variant. Shards are mapped when first read, and a few dozen stay so; their indexes stay until `forget` or
    `close`. Thread-safe.

    Attributes:
        split: "train", "val" or "test".
        class_names: index = label.
        tar_paths: the split's shards in order; empty shards are left out.
        counts: samples of each.
        num_samples: their sum.
        recheck: whether copies in the cache are hashed again.
        extensions: of what codecs wrote, each once; the packed originals, which every loader decodes, are left out.

    Args:
        folders: of each shard.
        codecs: folder → what the codec wrote in it, for those that do not hold originals.
    """

    def __init__(
        self,
        split: str,
        class_names: tuple[str, ...],
        folders: Sequence[AnyPath],
        shards: Sequence[ShardEntry],
        recheck: bool = True,
        codecs: Mapping[AnyPath, Written] | None = None,
    ) -> None:
        self.split = split
        self.class_names = class_names
        self.tar_paths = tuple(folder / shard.name for folder, shard in zip(folders, shards, strict=True))
        self.counts = tuple(shard.num_samples for shard in shards)
        self._shards = tuple(shards)
        written = codecs or {}
        self._codecs = tuple(written[folder].codec if folder in written else None for folder in folders)
        self.extensions = tuple(dict.fromkeys(each.extension for each in written.values()))
        self._starts = [0, *itertools.accumulate(self.counts)]
        self.num_samples = self._starts[-1]
        self.recheck = recheck
        self._readers: dict[int, ShardReader] = {}
        self._indexes: dict[int, ShardIndex] = {}
        self._num_forgotten = 0
        self._lock = threading.Lock()
        self._fetches: dict[int, Future[LocalCopy]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()

    def locate(self, index: int) -> tuple[int, int]:
        """(shard number, number within the shard) of a sample index."""
        shard = bisect.bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]

    def local_tar(self, shard: int) -> Path:
        """Where a shard can be read on this machine, with its index beside it: itself, or its copy in the cache.

        Waits for the copy, and has the next shards fetched meanwhile. Raises as `limla.cache.fetch` does.
        """
        path = self.tar_paths[shard]
        if not is_remote(path):
            return path
        with self._lock:
            wanted = [self._begin_fetch(number) for number in range(shard, min(shard + 3, len(self._shards)))]
        return wanted[0].result().path

    def _begin_fetch(self, shard: int) -> Future[LocalCopy]:
        path = self.tar_paths[shard]
        if shard not in self._fetches:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="limla-shard")
            assert is_remote(path)
            self._fetches[shard] = self._pool.submit(fetch, path, self._shards[shard], self.recheck, self._stop)
        return self._fetches[shard]

    def reader(self, shard: int) -> ShardReader:
        """The open reader of a shard; raises `DataError` when its index is not that of the manifest's tar."""
        reader = self._readers.get(shard)
        if reader is None:
            copy = self.local_tar(shard)
            with self._lock:
                reader = self._readers.get(shard)
                if reader is None:
                    reader = self._open(shard, copy)
        return reader

    def _open(self, shard: int, copy: Path) -> ShardReader:
        """Map a shard; the one mapped first makes room. Nothing is closed: other threads may be reading it."""
        path, count = self.tar_paths[shard], self.counts[shard]
        reader = ShardReader(path, copy, self._indexes.get(shard))
        if len(reader) != count:
            raise DataError(
                f"{index_path(path)}: lists {len(reader)} samples, but the manifest says {count}; "
                "remove the folder and make it again"
            )
        if len(self._readers) >= _MAPPED_AT_ONCE:
            del self._readers[next(iter(self._readers))]
        self._readers[shard], self._indexes[shard] = reader, reader.locations
        return reader

    def forget(self, index: int) -> None:
        """Let go of the shards that lie before the sample `index`, as a pass in order does not come back to them.

        A later read opens them again.
        """
        shard, _ = self.locate(index)
        if shard == self._num_forgotten:
            return
        with self._lock:
            self._num_forgotten = shard
            for known in (self._readers, self._indexes):
                for number in [number for number in known if number < shard]:
                    del known[number]

    def read(self, index: int) -> Record:
        """The encoded sample at `index`; raises `DataError` naming the shard for a damaged member."""
        shard, number = self.locate(index)
        reader = self.reader(shard)
        key, extension = reader.locations.key(number), reader.locations.extension(number)
        label = self.check_label(reader.label(number), shard, key)
        return Record(key, reader.path, extension, reader.member(number, extension), label, self._codecs[shard])

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of a sample as its `json` member records them."""
        shard, number = self.locate(index)
        reader = self.reader(shard)
        metadata = reader.metadata(number)
        try:
            return int(metadata["height"]), int(metadata["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{reader.path}: 'json' of '{reader.locations.key(number)}' lacks height and width; "
                "make the shard again"
            ) from error

    def check_label(self, label: int, shard: int, key: str) -> int:
        """Return `label` if it is a class index, else raise `DataError`."""
        if not 0 <= label < len(self.class_names):
            raise DataError(
                f"{self.tar_paths[shard]}: sample '{key}' has class {label}, but the manifest lists "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1}); "
                "remove the folder and make it again"
            )
        return label

    def describe(self) -> str:
        """The folders, for error messages."""
        return ", ".join(dict.fromkeys(str(path.parent) for path in self.tar_paths))

    def close(self) -> None:
        """Unmap every shard and let go of the copies; fetches under way are given up."""
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            self._indexes.clear()
            for fetched in self._fetches.values():
                if not fetched.cancelled() and fetched.exception() is None:
                    fetched.result().close()
            self._fetches.clear()
        self._stop = threading.Event()


def open_source(folders: Sequence[AnyPath], split: str, verify_contents: bool = True) -> ShardSource:
    """Check one split of the given variant folders and return its shards.

    Raises `DataError` for a tar that is missing, truncated or altered, an index that is missing or of
    another length, an empty split, and folders that are not variants of one dataset (other class names or
    other keys), or whose learned codec's weights are missing; `SettingsError` when no folder, or one folder
    twice, is given, or an object store's shards are more than the files this process may open. Contents in an
    object store, and the length of indexes there, are checked when a shard is fetched.
    """
    folders = [Path(folder) if isinstance(folder, str) else folder for folder in folders]
    if not folders:
        raise SettingsError("no shard folder to load from: name at least one variant folder")
    if len({str(folder.resolve()) for folder in folders}) < len(folders):
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
    held: list[tuple[AnyPath, ShardEntry]] = []
    for folder, manifest in zip(folders, manifests, strict=True):
        if is_remote(folder):
            check_sizes(folder, manifest.of_split(split))
        else:
            verify_shards(folder, manifest, split, contents=verify_contents)
            for shard in manifest.of_split(split):
                _check_index_length(folder / shard.name, shard.num_samples)
        held += [(folder, shard) for shard in manifest.of_split(split) if shard.num_samples]
    _check_same_keys(folders, manifests, split)
    written = {
        folder: Written(extension_of(manifest.codec), learned_codec(manifest.codec, folder))
        for folder, manifest in zip(folders, manifests, strict=True)
        if manifest.codec != SOURCE
    }
    num_remote = sum(is_remote(folder) for folder, _ in held)
    if num_remote:
        allow_copies(num_remote)
    return ShardSource(
        split,
        manifests[0].class_names,
        [folder for folder, _ in held],
        [shard for _, shard in held],
        verify_contents,
        written,
    )


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
            f"{path}: does not list the {count} samples the manifest says the tar holds; "
            "remove the folder and make it again"
        )


def _check_same_keys(folders: Sequence[AnyPath], manifests: Sequence[Manifest], split: str) -> None:
    if len(folders) < 2:
        return
    marks = []
    for folder, manifest in zip(folders, manifests, strict=True):
        indexes = read_indexes(folder, manifest.of_split(split))
        keys = sorted(place.key for places in indexes for place in places)
        marks.append(hashlib.sha256("\n".join(keys).encode()).digest())
    for folder, mark in zip(folders, marks, strict=True):
        if mark != marks[0]:
            raise DataError(
                f"{folder} and {folders[0]} hold different '{split}' samples: "
                "a mix takes variants made from the same source"
            )
