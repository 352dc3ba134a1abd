"""Crops of a split's images, each decided by seed, epoch and image alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from limla.codecs.autoencoder_network import CENTRE, UNIT
from limla.loaders.reencoding import decode_record
from limla.loaders.source import ShardSource
from limla.types import Image

_BATCHES_AHEAD = 2
_THREADS = 2


def centred(image: Image) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 → (3, H, W) float32 in the network's units."""
    return ((image.astype(np.float32) - CENTRE) / UNIT).transpose(2, 0, 1)


def whole_image(source: ShardSource, index: int) -> Image:
    """The image of a split at an index, (H, W, 3) uint8."""
    return decode_record(source.read(index))


def _at_least(image: Image, side: int) -> Image:
    """The image, its last row and column repeated where it is smaller than `side`."""
    height, width = image.shape[:2]
    missing = ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0))
    return np.pad(image, missing, mode="edge")


def random_crop(source: ShardSource, index: int, side: int, generator: np.random.Generator) -> Image:
    """(side, side, 3) uint8 from anywhere in the image, turned over half of the time."""
    image = _at_least(whole_image(source, index), side)
    top, left = (int(generator.integers(length - side + 1)) for length in image.shape[:2])
    cut = image[top : top + side, left : left + side]
    return cut[:, ::-1] if generator.random() < 0.5 else cut


def middle_crop(source: ShardSource, index: int, side: int) -> Image:
    """(side, side, 3) uint8 from the middle of the image."""
    image = _at_least(whole_image(source, index), side)
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def epoch_batches(source: ShardSource, side: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """One crop of every image in an order drawn for the epoch, (n, 3, side, side) float32 each.

    Threads decode a few batches ahead; what a batch holds does not depend on them.
    """
    order = np.random.default_rng((seed, epoch)).permutation(source.num_samples)

    def crop(index: int) -> npt.NDArray[np.float32]:
        return centred(random_crop(source, index, side, np.random.default_rng((seed, epoch, index))))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="limla-crop") as pool:
        waiting: deque[list[Future[npt.NDArray[np.float32]]]] = deque()
        starts = iter(range(0, len(order), batch_size))
        try:
            while True:
                while len(waiting) <= _BATCHES_AHEAD and (start := next(starts, None)) is not None:
                    waiting.append(
                        [pool.submit(crop, int(index)) for index in order[start : start + batch_size]]
                    )
                if not waiting:
                    return
                yield torch.from_numpy(np.stack([future.result() for future in waiting.popleft()]))
        finally:
            pool.shutdown(cancel_futures=True)
