"""Qualities simulated by the real codec in the `cpu` loader's threads: the pixels of re-encoded shards, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from limla.codecs.base import Codec, encode_each
from limla.errors import DataError, LimlaError
from limla.loaders.base import LoaderSettings
from limla.loaders.reencoding import decode_record
from limla.loaders.source import Record, ShardSource
from limla.loaders.threads import ThreadedStreams
from limla.types import Batch, Image


class CpuSimulation(ThreadedStreams):
    """Decodes an original once, encodes it at each quality, and decodes and resizes each as the `cpu` loader does."""

    def __init__(
        self, source: ShardSource, settings: LoaderSettings, codec: Codec, qualities: Sequence[int | None]
    ) -> None:
        super().__init__(source, settings)
        self._codec = codec
        self.select(qualities)

    @staticmethod
    def check(codec: Codec) -> None:
        """Every codec can be simulated by itself."""

    def settings(self) -> dict[str, str | int | bool]:
        """See `Simulation.settings`."""
        return {**self._codec.settings(), "version": self._codec.version()}

    def select(self, qualities: Sequence[int | None]) -> None:
        """See `Simulation.select`."""
        self.qualities = tuple(qualities)
        self.num_streams = len(self.qualities)
        self._encoded = tuple(quality for quality in self.qualities if quality is not None)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        # what a codec loads for its first image is then there for every thread
        encode_each(self._codec, np.full((16, 16, 3), 128, np.uint8), self._encoded)
        return self.batches()

    def _decoded(self, record: Record, epoch: int) -> Iterator[Image]:
        del epoch
        original = decode_record(record)
        try:
            encoded = iter(encode_each(self._codec, original, self._encoded))
            for quality in self.qualities:
                yield original if quality is None else self._codec.decode(next(encoded))
        except LimlaError as error:
            raise DataError(f"{record.tar_path}: sample '{record.key}': {error}") from error
