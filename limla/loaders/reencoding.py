"""Images through a real codec between decoding and resizing: what shards at that quality would hold, without them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from limla.codecs import build_codec
from limla.codecs.decoding import decode_image
from limla.errors import DataError
from limla.loaders.base import Reencoding
from limla.loaders.source import Record
from limla.types import Image


class Reencoder:
    """Draws each image's quality and sends the image, at its own size, through the codec. Thread-safe.

    A draw depends on the sample's key, and in training on seed and epoch; never on threads, ranks, order or shards.
    Without training it is the same in every pass and for every seed, so that what is measured stays the same.

    Attributes:
        extension: of what the codec writes.
    """

    def __init__(self, asked: Reencoding, seed: int, training: bool) -> None:
        self._codec = build_codec(asked.codec)
        self._qualities = asked.qualities
        self._seed = seed
        self._training = training
        self.extension = self._codec.extension

    def quality(self, key: str, epoch: int) -> int | None:
        """The quality drawn for a sample in an epoch; None leaves it as it is."""
        when = f"{self._seed} {epoch}" if self._training else "measured"
        digest = hashlib.sha256(f"limla quality {when} {key}".encode()).digest()
        # of 2**64 numbers, so some qualities of n are likelier than others by n / 2**64
        return self._qualities[int.from_bytes(digest[:8], "big") % len(self._qualities)]

    def image(self, image: Image, key: str, epoch: int) -> Image:
        """An (H, W, 3) uint8 image after the codec, (H, W, 3) uint8; itself where the draw leaves it as it is."""
        quality = self.quality(key, epoch)
        return image if quality is None else self._codec.decode(self._codec.encode(image, quality))

    def encoded(
        self, records: Sequence[Record], epoch: int, pool: ThreadPoolExecutor
    ) -> list[npt.NDArray[np.uint8]]:
        """The bytes of each sample after the draw, (num_bytes,) uint8, for a loader that decodes them itself.

        Raises `DataError` naming a sample that cannot be decoded.
        """
        return list(pool.map(lambda record: np.frombuffer(self._bytes(record, epoch), np.uint8), records))

    def _bytes(self, record: Record, epoch: int) -> bytes | memoryview:
        quality = self.quality(record.key, epoch)
        if quality is None:
            return record.image
        return self._codec.encode(decode_record(record), quality)


def decode_record(record: Record) -> Image:
    """A sample's image as it is in the shard, (H, W, 3) uint8; raises `DataError` naming shard and key."""
    try:
        return decode_image(record.image, record.extension)
    except DataError as error:
        raise DataError(f"{record.tar_path}: sample '{record.key}': {error}") from error
