"""The pixels behind a flip: what the model saw before the change and after it, from the shards."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from limla.analysis.encodings import DataFolder, Variant
from limla.analysis.flips import FlipRow
from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.codecs.decoding import decode_image, is_learned, learned_codec
from limla.errors import DataError
from limla.loaders.resizing import center_planes
from limla.manifest import local_shard, read_manifest, variant_name
from limla.paths import AnyPath
from limla.shard_reader import ShardReader, read_indexes
from limla.types import Image, Preprocessing


@dataclass(frozen=True)
class EncodedImage:
    """An image member of a shard, as its bytes stand there; `codec` reads them where a learned one wrote them."""

    extension: str
    data: bytes
    codec: Codec | None = None

    def pixels(self) -> Image:
        """Decoded, (H, W, 3) uint8."""
        return decode_image(self.data, self.extension) if self.codec is None else self.codec.decode(self.data)


@dataclass(frozen=True)
class FlipPictures:
    """One flip, (H, W, 3) uint8 each: the model's input before and after the change.

    `after` is None where the change cannot be shown: shards of that quality are not there, or the defence draws it.
    """

    row: FlipRow
    before: Image
    after: Image | None


def encoded_images(folder: AnyPath, split: str, keys: Collection[str]) -> dict[str, EncodedImage]:
    """The encoded images of some keys from a variant's shards, in the order of `keys`.

    Opens only the shards that hold them. Raises `DataError` for a key that the split does not hold, and for shards
    that are missing or altered.
    """
    manifest = read_manifest(folder)
    codec = learned_codec(manifest.codec, folder)
    shards = [shard for shard in manifest.of_split(split) if shard.num_samples]
    wanted, found = set(keys), dict[str, EncodedImage]()
    for shard, index in zip(shards, read_indexes(folder, shards), strict=True):
        numbers = [number for number in range(len(index)) if index.key(number) in wanted]
        if not numbers:
            continue
        with local_shard(folder, shard) as path, ShardReader(folder / shard.name, path, index) as reader:
            for number in numbers:
                extension = index.extension(number)
                data = bytes(reader.member(number, extension))
                found[index.key(number)] = EncodedImage(extension, data, codec)
    missing = sorted(wanted - found.keys())
    if missing:
        raise DataError(
            f"{folder}: split '{split}' does not hold '{missing[0]}'; give --data-dir of the shards that were evaluated"
        )
    return {key: found[key] for key in keys}


def flip_pictures(rows: Sequence[FlipRow], data: DataFolder) -> list[FlipPictures]:
    """The pictures of flips of one dataset, in their order.

    A flip of falling quality shows the shards' re-encoded image, one behind a defence what the defence's codec (at
    its default settings) makes of the model's input. Raises as `encoded_images`.
    """
    shown: dict[tuple[Variant, str, str], EncodedImage] = {}
    for (variant, split), keys in _needed(rows, data).items():
        images = encoded_images(data.path / variant_name(*variant), split, list(keys))
        shown |= {(variant, split, key): image for key, image in images.items()}
    found: list[FlipPictures] = []
    for row in rows:
        before = shown.get((row.variant, row.split, row.key))
        if before is None:
            continue
        seen = model_input(before.pixels(), row.preprocessing)
        if row.change == "defence":
            after = _through(row, seen)
        else:
            encoded = shown.get((_after(row), row.split, row.key))
            after = model_input(encoded.pixels(), row.preprocessing) if encoded else None
        found.append(FlipPictures(row, seen, after))
    return found


def model_input(image: Image, preprocessing: str) -> Image:
    """The (S, S, 3) uint8 centre crop that a model is given of an (H, W, 3) image; the image itself for "none".

    `preprocessing` is the text of `Preprocessing.describe`; raises `DataError` for another.
    """
    if preprocessing == "none":
        return image
    match = re.fullmatch(r"shorter(\d+)-crop(\d+)", preprocessing)
    if match is None:
        raise DataError(f"preprocessing '{preprocessing}' is unknown: expected 'none' or 'shorter<n>-crop<n>'")
    shorter, side = int(match[1]), int(match[2])
    planes = np.empty((3, side, side), np.float32)
    center_planes(image, Preprocessing(side, "crop", shorter), planes)
    return np.rint(planes * 255).astype(np.uint8).transpose(1, 2, 0)


def _after(row: FlipRow) -> Variant:
    return row.codec, int(row.quality)


def _needed(rows: Iterable[FlipRow], data: DataFolder) -> dict[tuple[Variant, str], dict[str, None]]:
    """The keys to read of each variant and split; variants without shards are left out."""
    needed: dict[tuple[Variant, str], dict[str, None]] = defaultdict(dict)
    for row in rows:
        for variant in (row.variant, *([_after(row)] if row.change == "quality" else [])):
            if variant in data.manifests:
                needed[variant, row.split][row.key] = None
    return needed


def _through(row: FlipRow, image: Image) -> Image | None:
    """The image as the defence gives it to the model; None for a quality that was drawn.

    None too for a learned codec: its rows say which weights, not where they lie.
    """
    if "+" in row.quality or is_learned(row.codec):
        return None
    codec = build_codec(row.codec)
    return codec.decode(codec.encode(np.ascontiguousarray(image), int(row.quality)))
