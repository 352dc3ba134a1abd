"""The CPU loader: libjpeg-turbo and Pillow in threads."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from limla.loaders.base import LoaderSettings
from limla.loaders.reencoding import decode_record, reencoder_of
from limla.loaders.source import Record, ShardSource
from limla.loaders.threads import ThreadedStreams
from limla.types import Batch, Image


class CpuLoader(ThreadedStreams):
    """Decodes with libjpeg-turbo and Pillow; see `ThreadedStreams` for how batches are made."""

    num_streams = 1

    def __init__(self, source: ShardSource, settings: LoaderSettings) -> None:
        super().__init__(source, settings)
        self._reencoder = reencoder_of(settings)
        self.decoder = settings.reading.decoder_text(self.decoder)

    def __iter__(self) -> Iterator[Batch]:
        # a generator of its own would hold each batch until the next one is made
        return map(operator.itemgetter(0), self.batches())

    def _decoded(self, record: Record, epoch: int) -> Iterator[Image]:
        image = decode_record(record, fast=self._settings.reading.decoding == "fast")
        yield image if self._reencoder is None else self._reencoder.image(image, record.key, epoch)
