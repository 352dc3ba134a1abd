"""Images through a real codec between decoding and resizing: what shards at that quality would hold, without them."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from limla.codecs import build_codec
from limla.codecs.decoding import decode_image
from limla.errors import DataError
from limla.loaders.base import LoaderSettings, Reencoding
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
        self, read: Callable[[int], Record], batches: Iterable[Sequence[int]], epoch: int, num_threads: int
    ) -> Iterator[list[npt.NDArray[np.uint8]]]:
        """For a loader that decodes itself: the bytes of each sample after its draw, (num_bytes,) uint8, by batches.

        `read` gives the sample of an index, in several threads at once; a batch is made while the one before is used.
        Raises `DataError` naming a sample that cannot be decoded. Close the iterator to end the threads early.
        """
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="limla-reencoding")
        waiting: deque[list[Future[npt.NDArray[np.uint8]]]] = deque()
        try:
            for indices in batches:
                waiting.append(
                    [pool.submit(lambda at: self._bytes(read(at), epoch), index) for index in indices]
                )
                if len(waiting) > 1:
                    yield [task.result() for task in waiting.popleft()]
            while waiting:
                yield [task.result() for task in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _bytes(self, record: Record, epoch: int) -> npt.NDArray[np.uint8]:
        quality = self.quality(record.key, epoch)
        data = record.image if quality is None else self._codec.encode(decode_record(record), quality)
        return np.frombuffer(data, np.uint8)


def reencoder_of(settings: LoaderSettings) -> Reencoder | None:
    """What a loader's settings ask for; None where images are taken as the shards hold them."""
    asked = settings.reencoding
    return None if asked is None else Reencoder(asked, settings.seed, settings.training)


def decode_record(record: Record, fast: bool = False) -> Image:
    """A sample's image as it is in the shard, (H, W, 3) uint8; raises `DataError` naming shard and key."""
    try:
        if record.codec is not None:
            return record.codec.decode(record.image)
        return decode_image(record.image, record.extension, fast)
    except DataError as error:
        raise DataError(f"{record.tar_path}: sample '{record.key}': {error}") from error
