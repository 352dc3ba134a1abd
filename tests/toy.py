"""A dataset of three classes that a small network learns in seconds, written as shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from limla.codecs.jpeg import JpegCodec
from limla.manifest import SOURCE, Manifest, parse_variant, read_manifest
from limla.shards import open_shard, shard_name

CLASS_NAMES = ("bright", "dark", "middle")
COUNTS = {"train": 37, "val": 11, "test": 8}
_GREY = {"bright": 180, "dark": 60, "middle": 120}


def make_toy(
    data_dir: Path,
    variant: str = "source",
    counts: dict[str, int] | None = None,
    side: int = 32,
    image_quality: int = 90,
) -> Path:
    """Write one variant of the dataset: noise around a class's grey, `side` × `side` JPEGs; returns its folder.

    A variant other than "source" names the source beside it, which must be there, as what it was made from.
    """
    codec, quality = parse_variant(variant)
    folder, entries = data_dir / variant, []
    for split, count in (counts or COUNTS).items():
        with open_shard(folder / shard_name(split, 0)) as shard:
            for number in range(count):
                label = number % len(CLASS_NAMES)
                generator = np.random.default_rng((len(split), number))
                noise = generator.normal(0, 30, (side, side, 3))
                image = np.clip(_GREY[CLASS_NAMES[label]] + noise, 0, 255).astype(np.uint8)
                key = f"{split}-{number}"
                metadata = {"key": key, "height": side, "width": side}
                shard.add(
                    key,
                    {
                        "jpg": JpegCodec().encode(image, quality or image_quality),
                        "cls": str(label).encode(),
                        "json": json.dumps(metadata).encode(),
                    },
                )
        entries.append(shard.entry(shard_name(split, 0), split))
    settings = {} if quality is None else {"source": source_ids(data_dir)}
    Manifest(data_dir.name, codec, quality, CLASS_NAMES, tuple(entries), settings, {}).write(folder)
    return folder


def source_ids(data_dir: Path) -> dict[str, str]:
    """Split → data id of the source there, as `limla reencode` records it."""
    manifest = read_manifest(data_dir / SOURCE)
    return {split: manifest.data_id(split) for split in manifest.splits()}
