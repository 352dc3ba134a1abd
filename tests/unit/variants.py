"""Small source variants made without packing, for the suites of the stages that read them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image
import simplejpeg

from limla.manifest import SOURCE, Manifest
from limla.shards import ShardEntry, open_shard, shard_name
from limla.types import Image

CLASS_NAMES = ("cat", "dog", "größe/teil")
SIZES = ((48, 64), (33, 47), (1, 1), (17, 5), (64, 80), (40, 40), (7, 31))


def jpeg(image: Image, quality: int = 92) -> bytes:
    """An ordinary 4:4:4 JPEG."""
    return simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="444")


def pillow_bytes(image: Image, kind: str, mode: str = "RGB") -> bytes:
    """`image` in one of Pillow's formats and modes."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).convert(mode).save(file, kind)
    return file.getvalue()


def make_source(
    data_dir: Path,
    make_photo: Callable[[int, int, int], Image],
    counts: dict[str, Sequence[int]] | None = None,
    damaged: str | None = None,
    shift: int = 0,
) -> Manifest:
    """Write `<data_dir>/source`: shards of several splits, odd sizes, a gray JPEG, a PNG, a BMP.

    Args:
        counts: split → samples of each of its shards.
        damaged: key of a sample whose image is cut in the middle.
        shift: another number makes other pictures under the same keys.
    """
    counts = counts or {"train": (7, 5), "val": (3,), "test": (4,)}
    entries: list[ShardEntry] = []
    number = 0
    for split, sizes in counts.items():
        for shard, size in enumerate(sizes):
            name = shard_name(split, shard)
            with open_shard(data_dir / SOURCE / name) as writer:
                for _ in range(size):
                    height, width = SIZES[number % len(SIZES)]
                    image = make_photo(height, width, number + shift)
                    extension, data = _encoded(image, number)
                    label = number % len(CLASS_NAMES)
                    key = f"{split}/c{label}/img{number:04d}"
                    if key == damaged:
                        data = data[: len(data) // 2]
                    metadata = {"key": key, "height": height, "width": width, "class_name": CLASS_NAMES[label]}
                    members = {
                        extension: data,
                        "cls": str(label).encode(),
                        "json": json.dumps(metadata).encode(),
                    }
                    writer.add(key, members)
                    number += 1
            entries.append(writer.entry(name, split))
    manifest = Manifest(data_dir.name, SOURCE, None, CLASS_NAMES, tuple(entries), {}, {})
    manifest.write(data_dir / SOURCE)
    return manifest


def _encoded(image: Image, number: int) -> tuple[str, bytes]:
    if number % 7 == 3:
        return "jpg", pillow_bytes(image, "JPEG", "L")
    if number % 7 == 4:
        return "png", pillow_bytes(image, "PNG")
    if number % 7 == 5:
        return "bmp", pillow_bytes(image, "BMP")
    return "jpg", jpeg(image)
