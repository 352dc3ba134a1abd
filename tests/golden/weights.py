"""A small trained weights file of the learned codec, for the suites: it is trained, and so not the same bytes twice."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from limla.codec_training import CodecTrainSettings, train_codec
from limla.codecs.jpeg import JpegCodec
from limla.manifest import SOURCE, Manifest
from limla.shards import open_shard, shard_name
from tests.conftest import natural_like

WEIGHTS = Path(__file__).parent / "autoencoder-small.bin"
_COUNTS = {"train": 48, "val": 4}
_FIRST_SEED = 1000


def train_weights(path: Path) -> None:
    """Train on images like photographs, none of which the suites use."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "like-photos"
        entries, seed = [], _FIRST_SEED
        for split, count in _COUNTS.items():
            with open_shard(data_dir / SOURCE / shard_name(split, 0)) as shard:
                for number in range(count):
                    image = natural_like(128, 160, seed)
                    if number % 4 == 0:
                        image[...] = image[..., :1]
                    key = f"{split}-{number}"
                    metadata = json.dumps({"key": key, "height": 128, "width": 160}).encode()
                    shard.add(key, {"jpg": JpegCodec("444").encode(image, 98), "cls": b"0", "json": metadata})
                    seed += 1
            entries.append(shard.entry(shard_name(split, 0), split))
        Manifest("like-photos", SOURCE, None, ("any",), tuple(entries), {}, {}).write(data_dir / SOURCE)
        output = Path(folder) / "weights.bin"
        train_codec(CodecTrainSettings(data_dir, output, epochs=10, crop_size=64, width=8, bits=160))
        path.write_bytes(output.read_bytes())
