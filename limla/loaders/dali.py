"""The DALI loader: NVIDIA's data pipeline, decoding on the GPU where the batches go to one, else on the CPU."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from limla.loaders.dali_streams import DaliStreams
from limla.types import Batch


class DaliLoader(DaliStreams):
    """One batch of each image as it is decoded; see `DaliStreams` for where and how.

    On the CPU its pixels before the resize are the `cpu` loader's bit for bit (of JPEG 2000, whose wavelet is in
    floating point, a few values in a million are one 8-bit step away), after it within one 8-bit step. The GPU
    decoder differs by a few steps (other DCT and chroma upsampling): its name is another.
    """

    def __iter__(self) -> Iterator[Batch]:
        # a generator of its own would hold each batch until the next one is made
        return map(operator.itemgetter(0), self.batches())

    def _streams(self, images: Any) -> list[Any]:
        return [images]
