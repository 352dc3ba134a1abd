"""WebDataset shards: the key grammar, the names of the files, and a deterministic tar writer with its DALI index.

A shard is a plain USTAR archive (POSIX.1-1988) whose members are `<key>.<extension>`; the members of one
sample stand together: the image (`jpg`, `png`, …), `cls` (the class index in ASCII) and `json` (metadata,
which holds the key again so that loaders that lose member names still return it). Beside `x.tar` stands
`x.idx`, DALI's index (format v1.2, as `wds2idx` writes it): byte offsets and sizes of every member.
`limla.shard_reader` reads them.

Python's `tarfile` and webdataset's `TarWriter` are not used for writing: they take a good part of the time
of re-encoding, and a float mtime adds a 1 KB PAX header to every member.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from limla.files import atomic_open, write_bytes
from limla.paths import AnyPath

if TYPE_CHECKING:
    from upath import UPath

BLOCK = 512
MAX_NAME_BYTES = 100
"""The USTAR name field; limla keeps every member name within it, so no prefix or extension header is needed."""
MAX_KEY_LENGTH = 92
COMPANIONS = ("cls", "json")
"""The members that stand beside the image; the third one, whatever its extension, is the image."""
_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
INDEX_VERSION = "v1.2"
"""The first word of a DALI index."""
_Path = TypeVar("_Path", bound="Path | UPath")


@functools.lru_cache(maxsize=64)  # re-encoding writes a key once for each quality
def check_key(key: str) -> str:
    """Return `key` if it is a valid sample key, else raise `ValueError`.

    A key is ASCII letters, digits, `_`, `-` and `/`, at most 92 characters: webdataset cuts a name at its
    first dot, DALI refuses such a tar, and 92 plus an extension fits the USTAR name field.
    """
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise ValueError(
            f"sample key {key!r} is not valid: use 1 to {MAX_KEY_LENGTH} ASCII letters, digits, '_', '-' "
            "and '/' between non-empty parts; no dots"
        )
    return key


_GATHERED_BYTES = 1 << 18
"""Samples are gathered until they take so many bytes, then written and hashed at once."""
_MODE_AND_OWNER = b"0000644\0" + 2 * b"0000000\0"
_TIME = b"00000000000\0"
_TYPE_MAGIC_AND_REST = (b"0".ljust(101, b"\0") + b"ustar\x0000").ljust(356, b"\0")
# the checksum is the sum of all header bytes with the checksum field itself taken as eight spaces
_FIXED_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + sum(_TYPE_MAGIC_AND_REST) + 8 * 0x20


@functools.lru_cache(maxsize=256)
def _header_start(name: str) -> tuple[bytes, int]:
    """The fields before the size, and the checksum without the size."""
    encoded = name.encode("ascii")
    return encoded.ljust(100, b"\0") + _MODE_AND_OWNER, _FIXED_SUM + sum(encoded)


@functools.lru_cache(maxsize=256)  # and headers of equal name and size
def _header(name: str, num_bytes: int) -> bytes:
    """One USTAR header block: regular file, mode 0644, owner 0, mtime 0."""
    start, checksum = _header_start(name)
    size = b"%011o\0" % num_bytes
    return b"%b%b%b%06o\0 %b" % (start, size, _TIME, checksum + sum(size), _TYPE_MAGIC_AND_REST)


@dataclass(frozen=True)
class ShardEntry:
    """One finished shard, as its manifest lists it.

    Attributes:
        name: file name of the tar, `<split>-<nnnnnn>.tar`.
        split: "train", "val" or "test".
        num_samples: samples in the shard.
        num_bytes: size of the tar file in bytes.
        sha256: SHA-256 of the tar file, hexadecimal.
    """

    name: str
    split: str
    num_samples: int
    num_bytes: int
    sha256: str


class ShardWriter:
    """Writes one tar and its index. Equal samples in equal order give equal bytes.

    Use `open_shard`, which makes both files appear whole or not at all.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._offset = 0
        self._index: list[str] = []
        self._gathered: list[bytes] = []
        self._gathered_until = _GATHERED_BYTES

    @property
    def num_samples(self) -> int:
        """Samples written so far."""
        return len(self._index)

    @property
    def num_bytes(self) -> int:
        """Bytes written so far."""
        return self._offset

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append one sample; it may reach the file with later ones.

        Args:
            key: the sample key, see `check_key`.
            members: extension → bytes, written in the order given; "json" and "cls" are ours.

        Raises `ValueError` for an invalid key and `OSError` when the disk is full.
        """
        check_key(key)
        parts = self._gathered
        line: list[str] = []
        offset = self._offset
        for extension, data in members.items():
            name = f"{key}.{extension}"
            assert len(name) <= MAX_NAME_BYTES, name
            num_bytes = len(data)
            parts += (_header(name, num_bytes), data, bytes(-num_bytes % BLOCK))
            line.append(f"{extension} {offset + BLOCK} {num_bytes} {name}")
            offset += BLOCK + num_bytes + -num_bytes % BLOCK
        self._offset = offset
        self._index.append(" ".join(line))
        if offset >= self._gathered_until:
            self._write()

    def finish(self) -> None:
        """Write the end-of-archive mark (two zero blocks)."""
        self._gathered.append(bytes(2 * BLOCK))
        self._offset += 2 * BLOCK
        self._write()

    def _write(self) -> None:
        # many samples at once: each call lets go of the interpreter, which is then taken by another thread
        block = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_until = self._offset + _GATHERED_BYTES
        self._file.write(block)
        self._hash.update(block)

    def index_text(self) -> str:
        """The DALI index of what was written."""
        return "".join(f"{line}\n" for line in (f"{INDEX_VERSION} {self.num_samples}", *self._index))

    def entry(self, name: str, split: str) -> ShardEntry:
        """The manifest entry of the finished shard."""
        return ShardEntry(name, split, self.num_samples, self.num_bytes, self._hash.hexdigest())


@contextmanager
def open_shard(path: AnyPath) -> Iterator[ShardWriter]:
    """Open `path` (`….tar`) for writing; tar and index appear when the block ends without an error."""
    with atomic_open(path) as file:
        writer = ShardWriter(file)
        yield writer
        writer.finish()
    write_bytes(index_path(path), writer.index_text().encode("ascii"))


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard: `train-000003.tar`."""
    return f"{split}-{number:06d}.tar"


def index_path(tar_path: _Path) -> _Path:
    """Where the DALI index of a tar stands."""
    return tar_path.with_suffix(".idx")
