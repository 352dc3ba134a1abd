"""The CPU loader: libjpeg-turbo and Pillow in threads."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from limla.loaders.reencoding import decode_record
from limla.loaders.source import Record
from limla.loaders.threads import ThreadedStreams
from limla.types import Batch, Image


class CpuLoader(ThreadedStreams):
    """Decodes with libjpeg-turbo and Pillow; see `ThreadedStreams` for how batches are made."""

    num_streams = 1

    def __iter__(self) -> Iterator[Batch]:
        # a generator of its own would hold each batch until the next one is made
        return map(operator.itemgetter(0), self.batches())

    def _decoded(self, record: Record, epoch: int) -> Iterator[Image]:
        yield decode_record(record)
