"""The CPU loader: threads that decode, resize and write straight into the batch. No worker processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from limla.codecs.decoding import decode_image
from limla.errors import DataError
from limla.loaders.base import LoaderSettings
from limla.loaders.geometry import center_window, check_one_size, random_region, region_window, to_planes
from limla.loaders.order import num_rank_batches, num_rank_samples, rank_batches
from limla.loaders.source import Record, ShardSource
from limla.types import Batch, Image

_TASKS_PER_THREAD = 4
"""Tasks a batch is cut into, per thread: small enough that no thread waits long for another's last task."""
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class _Pending:
    """A batch in the making. `images` is (n, 3, S, S) float32, or None while sizes are not known."""

    images: torch.Tensor | None
    tasks: list[Future[list[tuple[Record, Image | None]]]]


class CpuLoader:
    """Decodes with libjpeg-turbo and Pillow in a thread pool; both release the GIL.

    At most three batches exist at a time, whatever the size of the dataset. Encoded images are views of the
    memory-mapped shards.
    """

    decoder = "cpu"

    def __init__(self, source: ShardSource, settings: LoaderSettings) -> None:
        self.num_samples = num_rank_samples(source.num_samples, settings)
        self.class_names = source.class_names
        self._source = source
        self._settings = settings
        self._epoch = 0
        self._num_threads = settings.num_threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return num_rank_batches(self._source.num_samples, self._settings)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="limla-loader")
        pool = self._pool
        waiting: deque[_Pending] = deque()
        try:
            for indices in rank_batches(self._source.num_samples, self._settings, epoch):
                waiting.append(self._start(pool, indices, epoch))
                if len(waiting) > _BATCHES_AHEAD:
                    yield self._finish(waiting.popleft())
            while waiting:
                yield self._finish(waiting.popleft())
        finally:
            # a pass that is left early: nothing may go on reading the shards behind the caller's back
            tasks = [task for pending in waiting for task in pending.tasks]
            for task in tasks:
                task.cancel()
            for task in tasks:
                if not task.cancelled():
                    task.exception()

    def close(self) -> None:
        """End the threads and unmap the shards; finish or drop the running pass first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._source.close()

    def _start(self, pool: ThreadPoolExecutor, indices: npt.NDArray[np.int64], epoch: int) -> _Pending:
        preprocessing = self._settings.preprocessing
        images = planes = None
        if preprocessing.resize == "crop":
            side = preprocessing.image_size
            images = torch.empty((len(indices), 3, side, side), dtype=torch.float32)
            planes = images.numpy()
        step = max(1, len(indices) // (_TASKS_PER_THREAD * self._num_threads))
        return _Pending(
            images,
            [
                pool.submit(self._load, indices[start : start + step], planes, start, epoch)
                for start in range(0, len(indices), step)
            ],
        )

    def _load(
        self,
        indices: npt.NDArray[np.int64],
        planes: npt.NDArray[np.float32] | None,
        first: int,
        epoch: int,
    ) -> list[tuple[Record, Image | None]]:
        """Decode samples; write them into `planes` from `first` on, or return them where sizes are not known."""
        settings = self._settings
        done: list[tuple[Record, Image | None]] = []
        for slot, index in enumerate(indices.tolist(), start=first):
            record = self._source.read(index)
            image = _decode(record)
            if settings.augment:
                height, width = image.shape[:2]
                region = random_region(height, width, settings.seed, epoch, index)
                shape = (height, width) if planes is None else (planes.shape[2], planes.shape[3])
                image = region_window(image, region, shape)
            elif planes is not None:
                image = center_window(image, settings.preprocessing)
            if planes is None:
                done.append((record, image))
            else:
                to_planes(image, planes[slot])
                done.append((record, None))
        return done

    def _finish(self, pending: _Pending) -> Batch:
        done = [sample for task in pending.tasks for sample in task.result()]
        records = [record for record, _ in done]
        images = pending.images
        if images is None:
            images = _stack([(record, image) for record, image in done if image is not None])
        labels = torch.tensor([record.label for record in records], dtype=torch.int64)
        keys = tuple(record.key for record in records)
        device = self._settings.device
        return Batch(keys, images.to(device), labels.to(device))


def _decode(record: Record) -> Image:
    try:
        return decode_image(record.image, record.extension)
    except DataError as error:
        raise DataError(f"{record.tar_path}: sample '{record.key}': {error}") from error


def _stack(samples: list[tuple[Record, Image]]) -> torch.Tensor:
    """Images of one size as (n, 3, H, W) float32; raises `DataError` naming two that differ."""
    _, image = samples[0]
    check_one_size([(record.key, pixels.shape[0], pixels.shape[1]) for record, pixels in samples])
    images = torch.empty((len(samples), 3, *image.shape[:2]), dtype=torch.float32)
    for planes, (_, pixels) in zip(images.numpy(), samples, strict=True):
        to_planes(pixels, planes)
    return images
