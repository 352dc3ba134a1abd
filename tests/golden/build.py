"""What the golden file records: bytes that must not change without a reason that someone writes down.

Everything is made from whole numbers, so the recorded hashes hold on every machine.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from limla.codecs.jpeg import JpegCodec
from limla.manifest import Manifest
from limla.shards import index_path, open_shard
from limla.types import Image

GOLDEN = Path(__file__).parent / "golden.json"
QUALITIES = (1, 10, 50, 90, 95, 96, 100)


def picture(height: int, width: int) -> Image:
    """A deterministic image of edges, ramps and a texture, from integer arithmetic only."""
    rows, columns = np.mgrid[:height, :width]
    red = (rows * 5 + columns * 3) % 256
    green = (rows * columns // 7) % 256
    blue = np.where((rows // 8 + columns // 8) % 2, 200, 40) + (rows ^ columns) % 32
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def build() -> dict[str, Any]:
    """The hashes as the code makes them now."""
    image = picture(61, 83)
    encodings = {
        f"{subsampling}-q{quality}": _hash(JpegCodec(subsampling).encode(image, quality))
        for subsampling in ("420", "444")
        for quality in QUALITIES
    }
    decoded = _hash(JpegCodec().decode(JpegCodec().encode(image, 50)).tobytes())
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "train-000000.tar"
        with open_shard(tar) as writer:
            for number in range(3):
                members = {"jpg": bytes(range(number, 200)), "cls": b"%d" % number, "json": b'{"key":"k"}'}
                writer.add(f"class/sample-{number}", members)
        manifest = Manifest("golden", "source", None, ("a", "b"), (writer.entry(tar.name, "train"),), {}, {})
        manifest.write(Path(folder))
        files = {
            path.name: _hash(path.read_bytes()) for path in (tar, index_path(tar), tar.parent / "manifest.json")
        }
    return {"jpeg_encodings": encodings, "jpeg_decoded": decoded, "shard_files": files}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
