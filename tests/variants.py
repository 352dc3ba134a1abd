"""Variant folders made for tests: shards and manifest, without the packer."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image

from limla.manifest import Manifest
from limla.shards import ShardEntry, open_shard, shard_name
from limla.types import Image
from tests.conftest import natural_like

CLASS_NAMES = ("ant", "bee", "cat")
_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}


@dataclass(frozen=True)
class Member:
    """One sample to write; `label` is its raw `cls` member."""

    key: str
    data: bytes
    extension: str
    label: bytes
    height: int
    width: int


@dataclass(frozen=True)
class Variant:
    """What `write_variant` wrote: split → its samples in order."""

    folder: Path
    samples: Mapping[str, Sequence[Member]] = field(repr=False)


def encode(image: Image, extension: str = "jpg", quality: int = 90) -> bytes:
    """`image` as a file of the given kind, by Pillow."""
    file = io.BytesIO()
    options = {"quality": quality} if extension in ("jpg", "webp") else {}
    PIL.Image.fromarray(image).save(file, _PILLOW_FORMATS[extension], **options)
    return file.getvalue()


def member(number: int, height: int, width: int, extension: str = "jpg", quality: int = 90) -> Member:
    """A natural-like sample; the key says nothing about the label."""
    image = natural_like(height, width, seed=number)
    label = str(number % len(CLASS_NAMES)).encode()
    return Member(
        f"group{number % 2}/photo_{number:03d}",
        encode(image, extension, quality),
        extension,
        label,
        height,
        width,
    )


def write_variant(
    folder: Path,
    splits: Mapping[str, Sequence[Sequence[Member]]],
    codec: str = "source",
    quality: int | None = None,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Variant:
    """Write split → shards → samples as a complete variant folder."""
    entries: list[ShardEntry] = []
    for split, shards in splits.items():
        for number, samples in enumerate(shards):
            name = shard_name(split, number)
            with open_shard(folder / name) as writer:
                for sample in samples:
                    metadata = {"key": sample.key, "height": sample.height, "width": sample.width}
                    writer.add(
                        sample.key,
                        {
                            sample.extension: sample.data,
                            "cls": sample.label,
                            "json": json.dumps(metadata).encode(),
                        },
                    )
            entries.append(writer.entry(name, split))
    Manifest("things", codec, quality, class_names, tuple(entries), {}, {}).write(folder)
    return Variant(
        folder, {split: [sample for shard in shards for sample in shard] for split, shards in splits.items()}
    )
