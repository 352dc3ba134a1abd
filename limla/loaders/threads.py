"""Threads that decode, resize and write straight into batches: what the `cpu` loader and the `cpu` simulation share.

No worker processes. One pass may make several batches of the same images at once, its *streams*.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from limla.loaders.base import LoaderSettings
from limla.loaders.buffers import BatchBuffers
from limla.loaders.geometry import check_one_size, random_region, to_planes
from limla.loaders.order import num_rank_batches, num_rank_samples, rank_batches
from limla.loaders.resizing import Planes, center_planes, load_kernels, region_planes
from limla.loaders.source import Record, ShardSource
from limla.types import Batch, Image

_TASKS_PER_THREAD = 4
"""Tasks a batch is cut into, per thread: small enough that no thread waits long for another's last task."""
_IMAGES_AHEAD = 2
"""Images in the making per thread, at least, while a batch is used; one whole batch at least."""


@dataclass(frozen=True)
class _Sample:
    """A loaded sample; `planes` has its images where sizes are not known beforehand, else they are in the batches."""

    key: str
    label: int
    planes: list[Planes]


@dataclass(frozen=True)
class _Pending:
    """Batches in the making. `images` is (streams, n, 3, S, S) float32, or None while sizes are not known.

    `first` is the index of the first sample.
    """

    first: int
    images: torch.Tensor | None
    tasks: list[Future[list[_Sample]]]


class ThreadedStreams(ABC):
    """Decodes in a thread pool and resizes by `limla.loaders.resizing`, all of which releases the GIL.

    One batch (of each stream) is in the making while one is used, and the next is begun when that is asked for: three
    in all (more of them where a batch has less than two images per thread). Their memory is used again. Encoded
    images are views of the memory-mapped shards.
    """

    decoder = "cpu"
    num_streams: int
    """Batches of the same images that a pass makes at once."""

    def __init__(self, source: ShardSource, settings: LoaderSettings) -> None:
        self.num_samples = num_rank_samples(source.num_samples, settings)
        self.class_names = source.class_names
        self._source = source
        self._settings = settings
        self._epoch = 0
        self._num_threads = settings.num_threads or len(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        self._batches_ahead = max(1, -(-_IMAGES_AHEAD * self._num_threads // settings.batch_size))
        self._buffers = BatchBuffers(num_kept=self._batches_ahead + 2)

    @abstractmethod
    def _decoded(self, record: Record, epoch: int) -> Iterator[Image]:
        """The decoded image of each stream, one at a time. Called from several threads at once.

        Raises `DataError` naming shard and key.
        """

    def __len__(self) -> int:
        return num_rank_batches(self._source.num_samples, self._settings)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch = epoch

    def batches(self) -> Iterator[tuple[Batch, ...]]:
        """One pass: a batch of each stream, all of the same samples."""
        epoch = self._epoch
        load_kernels()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="limla-loader")
        pool = self._pool
        waiting: deque[_Pending] = deque()
        try:
            for indices in rank_batches(self._source.num_samples, self._settings, epoch):
                waiting.append(self._start(pool, indices, epoch))
                if len(waiting) > self._batches_ahead:
                    yield self._finish(waiting)
            while waiting:
                yield self._finish(waiting)
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
        self._buffers.clear()
        self._source.close()

    def _start(self, pool: ThreadPoolExecutor, indices: npt.NDArray[np.int64], epoch: int) -> _Pending:
        preprocessing = self._settings.preprocessing
        images = planes = None
        if preprocessing.resize == "crop":
            side = preprocessing.image_size
            images = self._buffers.take((self.num_streams, len(indices), 3, side, side))
            planes = images.numpy()
        step = max(1, len(indices) // (_TASKS_PER_THREAD * self._num_threads))
        return _Pending(
            int(indices[0]),
            images,
            [
                pool.submit(self._load, indices[start : start + step], planes, start, epoch)
                for start in range(0, len(indices), step)
            ],
        )

    def _load(
        self,
        indices: npt.NDArray[np.int64],
        batches: npt.NDArray[np.float32] | None,
        first: int,
        epoch: int,
    ) -> list[_Sample]:
        """Load samples into `batches` (streams, n, 3, S, S) from `first` on, or return them if sizes are not known."""
        settings = self._settings
        done: list[_Sample] = []
        for slot, index in enumerate(indices.tolist(), start=first):
            record = self._source.read(index)
            own: list[Planes] = []
            for stream, image in enumerate(self._decoded(record, epoch)):
                height, width = image.shape[:2]
                if batches is None:
                    planes = np.empty((3, height, width), np.float32)
                    own.append(planes)
                else:
                    planes = batches[stream, slot]
                if settings.augment:
                    region = random_region(height, width, settings.seed, epoch, index)
                    region_planes(image, region, planes)
                elif batches is None:
                    to_planes(image, planes)
                else:
                    center_planes(image, settings.preprocessing, planes, settings.reading.antialias)
            done.append(_Sample(record.key, record.label, own))
        return done

    def _finish(self, waiting: deque[_Pending]) -> tuple[Batch, ...]:
        """The first batches of `waiting`, which they leave only when all their tasks have ended."""
        pending = waiting[0]
        samples = [sample for task in pending.tasks for sample in task.result()]
        waiting.popleft()
        if not self._settings.training:
            self._source.forget(pending.first)
        streams = self._stack(samples) if pending.images is None else pending.images
        keys = tuple(sample.key for sample in samples)
        device = self._settings.device
        labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64).to(device)
        return tuple(Batch(keys, images.to(device), labels) for images in streams)

    def _stack(self, samples: list[_Sample]) -> torch.Tensor:
        """Images of one size as (streams, n, 3, H, W) float32; raises `DataError` naming two that differ."""
        sizes = [(sample.key, *sample.planes[0].shape[1:]) for sample in samples]
        check_one_size(sizes)
        streams = self._buffers.take((self.num_streams, len(samples), 3, *sizes[0][1:]))
        for stream, images in enumerate(streams.numpy()):
            np.stack([sample.planes[stream] for sample in samples], out=images)
        return streams
