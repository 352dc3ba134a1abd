"""Reading shards (`limla.shards`) through their index: where each sample lies, and a reader that copies nothing."""

from __future__ import annotations

import json
import mmap
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, overload

from limla.errors import DataError
from limla.paths import AnyPath, is_remote
from limla.shards import COMPANIONS, INDEX_VERSION, ShardEntry, index_path
from limla.storage import in_parallel, read_bytes


@dataclass(frozen=True)
class Sample:
    """One sample of a shard; `image` and the other views are valid while the reader is open.

    Attributes:
        key: the sample key.
        extension: of the image member ("jpg", "png", …).
        image: the encoded image.
        label: the class index.
        metadata: the `json` member; always holds "key", "height", "width".
    """

    key: str
    extension: str
    image: memoryview
    label: int
    metadata: dict[str, Any]


class Location(NamedTuple):
    """Where one sample's members lie in the tar: extension → (offset, num_bytes)."""

    key: str
    extension: str
    members: dict[str, tuple[int, int]]


class _Layout(NamedTuple):
    """What members some samples have: extension → place among them; which is the image, and its name's place."""

    slots: dict[str, int]
    image: str
    image_word: int
    num_words: int


def _layout(extensions: Sequence[str], line: str) -> _Layout:
    images = [extension for extension in extensions if extension not in COMPANIONS]
    if not images:
        raise ValueError(f"no image member in {line[:80]!r}")
    slots = {extension: slot for slot, extension in enumerate(extensions)}
    return _Layout(slots, images[-1], 4 * slots[images[-1]] + 3, 4 * len(extensions))


class ShardIndex(Sequence[Location]):
    """Where the samples of a shard lie, in columns: a `Location` is made anew each time it is asked for.

    Costs 36 bytes and the key of each sample (24 more in a tar of 4 GiB and above).

    Args:
        lines: of a DALI index, without the first one.
        tar_bytes: size of the tar.

    Raises `ValueError` for a line that is not one of an index, or points outside the tar.
    """

    def __init__(self, lines: Sequence[str], tar_bytes: int) -> None:
        kind = "I" if tar_bytes < 1 << 32 else "Q"
        self._offsets, self._sizes, self._starts = array(kind), array(kind), array("I")
        self._keys, self._key_ends = bytearray(), array("I", (0,))
        self._layouts: list[_Layout] = []
        self._layout_of = array("I")
        known: dict[tuple[str, ...], int] = {}
        try:
            for line in lines:
                words = line.split(" ")
                extensions = tuple(words[::4])
                number = known.get(extensions)
                if number is None:
                    number = known[extensions] = len(known)
                    self._layouts.append(_layout(extensions, line))
                layout = self._layouts[number]
                if len(words) != layout.num_words:
                    raise ValueError(f"not extension, offset, size and name in {line[:80]!r}")
                self._layout_of.append(number)
                self._starts.append(len(self._offsets))
                self._offsets.extend(map(int, words[1::4]))
                self._sizes.extend(map(int, words[2::4]))
                self._keys += words[layout.image_word][: -len(layout.image) - 1].encode()
                self._key_ends.append(len(self._keys))
        except OverflowError as error:
            raise ValueError("an offset lies outside the tar") from error
        if max(map(operator.add, self._offsets, self._sizes), default=0) > tar_bytes:
            raise ValueError("an offset lies outside the tar")

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, number: int) -> Location: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Location]: ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        start = self._starts[number]
        slots = self._layouts[self._layout_of[number]].slots.items()
        members = {name: (self._offsets[start + slot], self._sizes[start + slot]) for name, slot in slots}
        return Location(self.key(number), self.extension(number), members)

    def key(self, number: int) -> str:
        """The key of sample `number`, which counts from 0."""
        return self._keys[self._key_ends[number] : self._key_ends[number + 1]].decode("ascii")

    def extension(self, number: int) -> str:
        """The extension of its image member."""
        return self._layouts[self._layout_of[number]].image

    def span(self, number: int, extension: str) -> tuple[int, int] | None:
        """(offset, num_bytes) of one of its members; None when it has none of that extension."""
        slot = self._layouts[self._layout_of[number]].slots.get(extension)
        if slot is None:
            return None
        place = self._starts[number] + slot
        return self._offsets[place], self._sizes[place]


def read_index(tar_path: AnyPath, tar_bytes: int | None = None) -> ShardIndex:
    """Read the DALI index beside `tar_path`, which holds `tar_bytes` (None: look).

    Raises `DataError` when it is missing, not an index, or points outside the tar.
    """
    path = index_path(tar_path)
    data = _index_bytes(path)
    try:
        tar_bytes = tar_path.stat().st_size if tar_bytes is None else tar_bytes
    except FileNotFoundError as error:
        raise _incomplete(tar_path) from error
    return parse_index(data, path, tar_bytes)


def _index_bytes(path: AnyPath) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise _incomplete(path) from error


def _incomplete(path: AnyPath) -> DataError:
    return DataError(f"{path}: missing; the folder is incomplete: make it again")


def read_indexes(folder: AnyPath, shards: Iterable[ShardEntry]) -> Iterator[ShardIndex]:
    """The index of each of a folder's shards, in order; raises as `read_index` does."""

    def read(shard: ShardEntry) -> tuple[ShardEntry, bytes]:
        return shard, _index_bytes(index_path(folder / shard.name))

    # only bytes are read ahead, and only from a store: parsing takes the memory of one shard at a time
    for shard, data in in_parallel(read, shards) if is_remote(folder) else map(read, shards):
        yield parse_index(data, index_path(folder / shard.name), shard.num_bytes)


def parse_index(data: bytes, path: AnyPath, tar_bytes: int) -> ShardIndex:
    """The samples that the bytes of a DALI index list; raises `DataError` as `read_index` does."""
    try:
        lines = data.decode("ascii").splitlines()
        version, count = lines[0].split()
        if version != INDEX_VERSION or int(count) != len(lines) - 1:
            raise ValueError(lines[0])
        return ShardIndex(lines[1:], tar_bytes)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        tar_name = path.with_suffix(".tar").name
        raise DataError(f"{path}: not a valid index of {tar_name} ({error}); make the shard again") from error


class ShardReader:
    """Random and sequential access to a shard through its index, without copying (memory map).

    Close it, or use it as a context manager, after the last use of any `Sample.image`.

    Args:
        tar_path: the shard, also for error messages.
        copy: where its bytes lie on this machine, with the index beside them; None for a local shard.
        index: the shard's, when it has been read before.
    """

    def __init__(self, tar_path: AnyPath, copy: Path | None = None, index: ShardIndex | None = None) -> None:
        if copy is None:
            assert isinstance(tar_path, Path), f"{tar_path} has no memory map: give a local copy"
            copy = tar_path
        self.path = tar_path
        self.locations = read_index(copy) if index is None else index
        with copy.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)

    def __len__(self) -> int:
        return len(self.locations)

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(number) for number in range(len(self)))

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file; if a view of it is still held, the map goes with that view."""
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            return

    def member(self, number: int, extension: str) -> memoryview:
        """The bytes of one member of sample `number`; raises `DataError` when the sample has none."""
        offset, num_bytes = self._span(number, extension)
        return self._view[offset : offset + num_bytes]

    def _span(self, number: int, extension: str) -> tuple[int, int]:
        span = self.locations.span(number, extension)
        if span is None:
            key = self.locations.key(number)
            raise DataError(f"{self.path}: sample '{key}' has no '{extension}' member; make the shard again")
        return span

    def label(self, number: int) -> int:
        """The class index of sample `number`."""
        offset, num_bytes = self._span(number, "cls")
        data = self._map[offset : offset + num_bytes]
        try:
            return int(data)
        except ValueError as error:
            raise DataError(
                f"{self.path}: 'cls' of '{self.locations.key(number)}' is {data!r}, not a number"
            ) from error

    def metadata(self, number: int) -> dict[str, Any]:
        """The `json` member of sample `number`."""
        data = bytes(self.member(number, "json"))
        try:
            return json.loads(data)
        except ValueError as error:
            raise DataError(
                f"{self.path}: 'json' of '{self.locations.key(number)}' is not JSON: {error}"
            ) from error

    def sample(self, number: int) -> Sample:
        """Sample `number`, in the order it was written."""
        extension = self.locations.extension(number)
        image = self.member(number, extension)
        return Sample(self.locations.key(number), extension, image, self.label(number), self.metadata(number))
