"""The images that benchmarks run on: a folder of photos, packed shards, or generated ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limla.codecs.decoding import decode_image
from limla.codecs.jpeg import JpegCodec
from limla.errors import DataError
from limla.manifest import SOURCE, Manifest, local_shard, read_manifest
from limla.paths import AnyPath
from limla.shard_reader import ShardReader
from limla.shards import ShardEntry, open_shard, shard_name
from limla.types import Image

CLASS_NAMES = ("class0", "class1", "class2", "class3", "class4")
SPLIT = "test"
LOOSE = "loose"
_PHOTO_SUFFIXES = (".jpg", ".jpeg")
_NUM_GENERATED = 32
_SHAPES = ((375, 500), (500, 375), (333, 500), (375, 500))
"""Heights and widths of generated photos: about those of ImageNet's."""


@dataclass(frozen=True)
class Photo:
    """An encoded image; sides in pixels."""

    data: bytes
    extension: str
    height: int
    width: int


def photos_of_folder(folder: Path, max_images: int, min_side: int = 0) -> list[Photo]:
    """The first `max_images` JPEGs under `folder`, by path, whose longer side is at least `min_side` pixels.

    Raises `DataError` when there is none, or one of them is damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder of JPEGs")
    found: list[Photo] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PHOTO_SUFFIXES and len(found) < max_images:
            data = path.read_bytes()
            try:
                height, width = decode_image(data, "jpg").shape[:2]
            except DataError as error:
                raise DataError(
                    f"{path}: {error}; take it out, or measure on packed shards, without such files"
                ) from error
            if max(width, height) >= min_side:
                found.append(Photo(data, "jpg", height, width))
    if not found:
        large = f" with a side of at least {min_side} pixels" if min_side else ""
        raise DataError(f"{folder}: no JPEG{large}; name another folder")
    return found


def photos_of_shards(data_dir: AnyPath, max_images: int) -> list[Photo]:
    """The first images of a dataset's packed originals, here or in an object store.

    Raises `DataError` where there are none, or a shard is missing or damaged.
    """
    manifest = read_manifest(data_dir / SOURCE)
    found: list[Photo] = []
    for shard in manifest.shards:
        if len(found) >= max_images:
            break
        path = data_dir / SOURCE / shard.name
        with local_shard(data_dir / SOURCE, shard) as copy, ShardReader(path, copy) as reader:
            for sample in itertools.islice(reader, max_images - len(found)):
                height, width = sample.metadata["height"], sample.metadata["width"]
                found.append(Photo(bytes(sample.image), sample.extension, height, width))
    if not found:
        raise DataError(f"{data_dir / SOURCE}: holds no image; name another folder")
    return found


def generated_photos(max_images: int) -> list[Photo]:
    """Up to 32 JPEGs of about 500×375 with the 1/f spectrum of photographs; equal in every run."""
    codec = JpegCodec()
    found: list[Photo] = []
    for number in range(min(max_images, _NUM_GENERATED)):
        height, width = _SHAPES[number % len(_SHAPES)]
        image = natural_image(height, width, number)
        found.append(Photo(codec.encode(image, 92), "jpg", height, width))
    return found


def natural_image(height: int, width: int, seed: int) -> Image:
    """An (H, W, 3) uint8 image whose spectrum falls as 1/f, with correlated colours and a little noise."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    planes = []
    for strength in (45.0, 15.0, 15.0):
        noise = np.fft.rfft2(generator.standard_normal((height, width)))
        plane = np.fft.irfft2(noise / frequency**1.2, s=(height, width))
        planes.append(strength * plane / plane.std())
    luma, blue, red = planes
    colours = np.stack([luma + red, luma - (red + blue) / 3, luma + blue], axis=-1)
    grain = generator.normal(0, 3, (height, width, 1))
    return np.clip(128 + colours + grain, 0, 255).astype(np.uint8)


def repeated(photos: Sequence[Photo], num_images: int) -> Iterator[Photo]:
    """The photos, over and over, `num_images` in all."""
    return itertools.islice(itertools.cycle(photos), num_images)


def write_shards(data_dir: Path, photos: Iterable[Photo], shard_samples: int) -> int:
    """Write `<data_dir>/source`, one split "test" of five classes in turn; returns the number of images."""
    entries: list[ShardEntry] = []
    numbered = iter(enumerate(photos))
    while samples := list(itertools.islice(numbered, shard_samples)):
        name = shard_name(SPLIT, len(entries))
        with open_shard(data_dir / SOURCE / name) as writer:
            for number, photo in samples:
                label = number % len(CLASS_NAMES)
                key = f"{CLASS_NAMES[label]}/photo{number:07d}"
                metadata = {"key": key, "height": photo.height, "width": photo.width}
                members = {photo.extension: photo.data, "cls": str(label).encode()}
                writer.add(key, members | {"json": json.dumps(metadata).encode()})
        entries.append(writer.entry(name, SPLIT))
    manifest = Manifest(data_dir.name, SOURCE, None, CLASS_NAMES, tuple(entries), {}, {})
    manifest.write(data_dir / SOURCE)
    return manifest.num_samples()


def write_loose(data_dir: Path, photos: Iterable[Photo]) -> None:
    """Write the photos as files in class folders under `<data_dir>/loose`, in the classes of `write_shards`."""
    folder = data_dir / LOOSE
    for name in CLASS_NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        name = CLASS_NAMES[number % len(CLASS_NAMES)]
        (folder / name / f"photo{number:07d}.{photo.extension}").write_bytes(photo.data)
