"""The photos that codecs are compared on: files of a folder, or samples of its shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limla.codecs.base import MAX_PIXELS
from limla.codecs.decoding import decode_image
from limla.errors import DataError, SettingsError
from limla.manifest import FILE_NAME, SOURCE, read_manifest, verify_shards
from limla.pictures.files import pillow_silenced, read_regular
from limla.pictures.policies import read_pixels
from limla.pictures.walking import PICTURE_SUFFIXES, Walker, printable
from limla.shard_reader import read_index
from limla.types import Image


@dataclass(frozen=True)
class Photo:
    """Where a photo lies.

    Attributes:
        name: its path in the folder, or its sample key.
        path: the file, or the shard.
        extension: of a shard's member; "" for a file, which is read by the policies of packing.
        offset, num_bytes: of a shard's member.
    """

    name: str
    path: Path
    extension: str = ""
    offset: int = 0
    num_bytes: int = 0

    def read(self) -> bytes:
        """Its file, or member; raises `DataError` or `OSError`."""
        if not self.extension:
            return read_regular(self.path)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)

    def decode(self, data: bytes) -> Image:
        """Its pixels, upright sRGB, (H, W, 3) uint8; raises `DataError` where it cannot be decoded."""
        return decode_image(data, self.extension) if self.extension else read_pixels(data, MAX_PIXELS)

    def pixels(self) -> Image:
        """`decode` of `read`; raises as they do, naming the photo."""
        try:
            return self.decode(self.read())
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class DrawnPhoto:
    """A photo that can be decoded, the SHA-256 of its bytes, and its sides in pixels."""

    photo: Photo
    sha256: str
    height: int
    width: int


def find_photos(folder: Path, split: str | None = None) -> list[Photo]:
    """Every photo of a folder, sorted; of a dataset's shards the originals, of one split or all.

    Raises `DataError` when there is none, or a folder or shard cannot be read, `SettingsError` for a split of a folder
    of photos.
    """
    if (folder / SOURCE / FILE_NAME).is_file():
        return _samples(folder / SOURCE, split)
    if (folder / FILE_NAME).is_file():
        return _samples(folder, split)
    if split is not None:
        raise SettingsError(
            f"{folder} has no split '{split}': it is no folder of shards; pack it with 'limla pack'"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    unreadable: list[str] = []
    walker = Walker(folder, PICTURE_SUFFIXES, Counter(), unreadable)
    names = sorted(path for path, _, _ in walker.walk(""))
    if unreadable:
        raise DataError(f"{folder}: cannot read the folder {unreadable[0]}; check its owner and mode")
    if not names:
        raise DataError(f"{folder}: no photos there: .jpg .png .bmp .tif or .webp files, or a folder of shards")
    return [Photo(printable(name), folder / name) for name in names]


def _samples(folder: Path, only: str | None) -> list[Photo]:
    manifest = read_manifest(folder)
    photos: list[Photo] = []
    splits = [split for split in manifest.splits() if only in (None, split)]
    if not splits:
        raise DataError(f"{folder}: its split '{only}' is empty; there: {', '.join(manifest.splits())}")
    for split in splits:
        verify_shards(folder, manifest, split, contents=False)
        for shard in manifest.of_split(split):
            for key, extension, members in read_index(folder / shard.name):
                photos.append(Photo(key, folder / shard.name, extension, *members[extension]))
    return sorted(photos, key=lambda photo: photo.name)


def draw(photos: Sequence[Photo], number: int, seed: int) -> tuple[list[DrawnPhoto], list[str]]:
    """`number` photos at random (all where there are fewer) in their order, and why others drawn were passed over.

    Raises `DataError` when none can be decoded.
    """
    chosen: dict[int, DrawnPhoto] = {}
    refused: list[str] = []
    with pillow_silenced():
        for place in np.random.default_rng(seed).permutation(len(photos)):
            if len(chosen) == number:
                break
            photo = photos[place]
            try:
                data = photo.read()
                height, width = photo.decode(data).shape[:2]
            except (DataError, OSError) as error:
                refused.append(f"{photo.name}: {' '.join(str(error).split())}")
                continue
            chosen[int(place)] = DrawnPhoto(photo, hashlib.sha256(data).hexdigest(), height, width)
    if not chosen:
        raise DataError(f"none of {len(photos)} photos can be decoded; the first: {refused[0]}")
    return [chosen[place] for place in sorted(chosen)], refused
