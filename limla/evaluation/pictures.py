"""The few model inputs that each cell keeps as PNG files, for the report."""

from __future__ import annotations

import hashlib
import heapq
import io
import re
from pathlib import Path

from PIL import Image as PillowImage
from torch import Tensor

from limla.files import write_bytes, write_json
from limla.manifest import Manifest
from limla.paths import AnyPath
from limla.results import Condition, PredictionRow
from limla.shard_reader import read_indexes
from limla.types import Image

SAMPLES = "samples"
INDEX = "index.json"


def choose_keys(folder: AnyPath, manifest: Manifest, split: str, number: int) -> frozenset[str]:
    """The `number` keys of a split with the smallest SHA-256.

    The choice depends on the keys alone, so the cells of a dataset all keep the same images.
    """
    shards = (shard for shard in manifest.of_split(split) if shard.num_samples)
    keys = (place.key for places in read_indexes(folder, shards) for place in places)
    return frozenset(heapq.nsmallest(number, keys, key=lambda key: hashlib.sha256(key.encode()).digest()))


def to_uint8(image: Tensor) -> Image:
    """A (3, H, W) float32 tensor in [0, 1] as (H, W, 3) uint8, each value rounded to the nearest of 256."""
    return (image.detach() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


_AMBIGUOUS = re.compile(r"%|(?<=[_/])_|_(?=[_/])")


def picture_name(key: str) -> str:
    """The file name of a key's picture: "/" as "__"; another name for every other key.

    An underscore beside another one or beside "/" could be taken for part of a "/", so it is written as %5F.
    """
    escaped = _AMBIGUOUS.sub(lambda found: f"%{ord(found[0]):02X}", key)
    return f"{escaped.replace('/', '__')}.png"


class PictureFolder:
    """The pictures of one cell: `samples/<cell_id>/<name>.png` and `index.json`, which has the names' keys.

    A picture shows the model's input at its own resolution, rounded to 8 bits: a perturbation is kept to
    within half of 1/255.
    """

    def __init__(self, results_dir: Path, condition: Condition) -> None:
        self.folder = results_dir / SAMPLES / condition.cell_id
        self._condition = condition
        self._index: list[dict[str, object]] = []

    def add(self, row: PredictionRow, image: Image) -> None:
        """Write one model input, whole or not at all."""
        name = picture_name(row.key)
        buffer = io.BytesIO()
        PillowImage.fromarray(image).save(buffer, format="PNG")
        write_bytes(self.folder / name, buffer.getvalue())
        self._index.append(
            {
                "file": name,
                "key": row.key,
                "label": row.label,
                "prediction": row.prediction,
                "confidence": round(row.confidence, 6),
            }
        )

    def finish(self) -> None:
        """Write the index; nothing where no picture was added."""
        if not self._index:
            return
        condition = self._condition
        about = {
            "model": condition.model,
            "test_codec": condition.test_codec,
            "test_quality": condition.test_quality,
            "attack": condition.attack,
            "eps": condition.eps,
        }
        write_json(self.folder / INDEX, {**about, "pictures": self._index})
