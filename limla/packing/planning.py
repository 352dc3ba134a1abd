"""Which photos make which shard: cut before anything is read, so that a shard is a piece of work of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limla.files import canonical_json
from limla.packing.rows import Rows
from limla.packing.settings import PackSettings
from limla.packing.splitting import Planned
from limla.pictures.files import MAX_FILE_BYTES
from limla.pictures.walking import printable
from limla.shards import BLOCK, shard_name

_JSON_BYTES = 64 + len(
    '{"class_name":,"converted":[],"height":65500,"jpeg":{"luminance_sum":16320,"progressive":false,"quality":100,'
    '"standard":false,"subsampling":"420"},"key":,"notes":[],"num_bytes":,"source_format":"jpeg",'
    '"source_num_bytes":,"source_path":,"source_sha256":"","width":65500}'
)
"""Of a kept JPEG's `json` member without its names and sizes, at most; 64 of them are the SHA-256."""


class Photo(NamedTuple):
    """One file of a planned shard.

    Attributes:
        path: relative to the folder of photos, as the file system has it.
        num_bytes: when it was found; 0 also for a special file or a link to nothing.
        key: its sample key.
        label: the class index.
    """

    path: str
    num_bytes: int
    key: str
    label: int

    @classmethod
    def parse(cls, path: str, num_bytes: str, key: str, label: str) -> Photo:
        """Of the texts in a `Rows`; an empty key is the path without its extension, as most keys are."""
        return cls(path, int(num_bytes), key or _key_of(path), int(label))


def _key_of(path: str) -> str:
    return path.rpartition(".")[0]


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be made: its name, and its photos in their order (some 50 bytes each: names are short)."""

    name: str
    split: str
    photos: Sequence[Photo]


def cut(planned: Sequence[Planned], class_names: Sequence[str], settings: PackSettings) -> list[ShardPlan]:
    """Cut files, in their final order, into shards within `max_shard_samples` and `max_shard_bytes`.

    Bytes are what the tar takes when every file is kept as it is; a single larger file still gets its own shard.
    Files whose size alone says that they will be refused count for nothing.
    """
    plans: list[ShardPlan] = []
    photos: list[Photo] = []
    split, number, num_samples, num_bytes = "", 0, 0, 0

    def complete() -> None:
        if photos:
            rows = (one if one.key != _key_of(one.path) else one._replace(key="") for one in photos)
            plans.append(ShardPlan(shard_name(split, number), split, Rows(Photo.parse, rows)))
            photos.clear()

    for one in planned:
        photo = Photo(one.file.path, one.file.num_bytes, one.key, one.label)
        if 0 < photo.num_bytes <= MAX_FILE_BYTES:
            weight, more = 1, sample_bytes(photo, class_names[photo.label])
        else:
            weight, more = 0, 0
        if one.split != split:
            complete()
            split, number, num_samples, num_bytes = one.split, 0, 0, 0
        elif (
            num_samples
            and weight
            and (
                num_samples >= settings.max_shard_samples
                or num_bytes + more + 2 * BLOCK > settings.max_shard_bytes
            )
        ):
            complete()
            number, num_samples, num_bytes = number + 1, 0, 0
        photos.append(photo)
        num_samples += weight
        num_bytes += more
    complete()
    return plans


def sample_bytes(photo: Photo, class_name: str) -> int:
    """What a sample takes in the tar when the file is kept as it is: three members with headers, padded."""
    names = (photo.key, class_name, printable(photo.path))
    json_bytes = _JSON_BYTES + sum(len(canonical_json(name)) for name in names) + 2 * len(str(photo.num_bytes))
    return sum(BLOCK + size + -size % BLOCK for size in (photo.num_bytes, 1, json_bytes))
