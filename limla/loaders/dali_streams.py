"""NVIDIA's data pipeline: what the `dali` loader and the `dali` simulation share.

It decodes on the GPU where the batches go to one, else on the CPU. One pass may make several batches of the same
images at once, its *streams*.

Evaluation reads with `fn.readers.webdataset` through the shards' indexes. Training feeds the encoded samples
from the same memory-mapped shards through `fn.external_source`: DALI's reader can only shuffle within a
buffer and splits ranks by its own rule, where this gives the very order and crops of the CPU loader.

Shards of an object store are fed in the same way from the checked copies in the cache, which arrive while earlier
ones are decoded. With `verify_contents=False` DALI's reader reads s3:// itself, and keeps nothing on this machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import nvidia.dali
import nvidia.dali.fn
import nvidia.dali.types
import torch

from limla.errors import DataError, SettingsError
from limla.loaders.base import LoaderSettings
from limla.loaders.dali_errors import decoded_extensions, explain
from limla.loaders.geometry import (
    check_one_size,
    random_region,
    touches_border,
)
from limla.loaders.order import num_rank_batches, num_rank_samples, rank_batches
from limla.loaders.reencoding import reencoder_of
from limla.loaders.resizing import center_planes, region_planes
from limla.loaders.source import ShardSource
from limla.paths import AnyPath, is_remote
from limla.shards import index_path
from limla.storage import read_bytes
from limla.types import Batch

# DALI's operators are made at import; its type stubs describe only part of them
dali: Any = nvidia.dali
fn: Any = nvidia.dali.fn
types: Any = nvidia.dali.types

_READER = "shards"
_AHEAD = 2
"""Batches in the making while one is used."""
HW_DECODER_LOAD = 0.65
"""Share of a batch's JPEGs for the GPU's hardware decoder where it has one; CUDA cores decode the rest. DALI's own
default: at 0.9 it measured 2% more throughput on an A100 and twice the longest wait (NVIDIA/DALI pull request 6366)."""
_SIZES_LOOKED_AT = 64
"""Images whose size is looked at to allocate the GPU decoder's buffers before they are needed."""


@dataclass(frozen=True)
class _Plan:
    """What the pipeline does after decoding.

    Attributes:
        feed: encoded samples come through `external_source` (training, re-encoding, copies of remote shards) instead
            of DALI's own reader.
        regions: the crops are fed too (augmentation); else the centre crop is computed in the pipeline.
        resize: DALI resizes. It continues the image beyond its border where Pillow leaves the border out, so a
            centre crop that reaches the border is resized by the cpu loader's kernel, as is augmentation at
            the image's own size.
        scale: DALI gives (3, H, W) float32; else the decoded image.
    """

    feed: bool
    regions: bool
    resize: bool
    scale: bool


def _make_plan(source: ShardSource, settings: LoaderSettings) -> _Plan:
    crop = settings.preprocessing.resize == "crop"
    feed = (
        settings.training
        or settings.reencoding is not None
        or not all(_reads_itself(path, source) for path in source.tar_paths)
    )
    if crop:
        resize = settings.augment or not touches_border(settings.preprocessing)
        return _Plan(feed, settings.augment, resize, resize)
    return _Plan(feed, False, False, not settings.augment)


def _reads_itself(path: AnyPath, source: ShardSource) -> bool:
    """Whether DALI's reader is given a shard: a local one, or one in S3 whose contents need not be checked."""
    return not is_remote(path) or (path.protocol in ("s3", "s3a") and not source.recheck)


def _dali_path(path: AnyPath) -> str:
    return f"s3://{path.path}" if is_remote(path) else str(path)


class DaliStreams(ABC):
    """Batches from a DALI pipeline, on the CPU ("dali-cpu") or on `settings.device` ("dali-gpu").

    On the GPU the images never leave the device: JPEGs are decoded, resized and scaled on it, and torch takes DALI's
    memory as it is. (Other formats are decoded on the CPU.) Shards
    of formats that DALI does not decode as their codec does are refused: see `limla.loaders.decodable`.

    Args:
        hw_decoder_load: share of a batch's JPEGs for the GPU's hardware decoder, 0 to 1, see `HW_DECODER_LOAD`.
            The two decoders differ by a few steps, so another share is another decoder name.
    """

    def __init__(
        self, source: ShardSource, settings: LoaderSettings, hw_decoder_load: float = HW_DECODER_LOAD
    ) -> None:
        device = torch.device(settings.device)
        if device.type not in ("cpu", "cuda"):
            raise SettingsError(f"DALI cannot make batches on '{settings.device}': choose cpu or cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError(f"device '{settings.device}': torch finds no NVIDIA GPU; choose cpu")
        if not 0 <= hw_decoder_load <= 1:
            raise SettingsError(f"hw_decoder_load {hw_decoder_load:g} is out of range: choose 0 to 1")
        self._reencoder = reencoder_of(settings)
        self._decoded = decoded_extensions(
            device.type, [*source.extensions, *([self._reencoder.extension] if self._reencoder else [])]
        )
        share = "" if hw_decoder_load == HW_DECODER_LOAD else f"-hw{hw_decoder_load:g}"
        self.decoder = f"dali-gpu{share}" if device.type == "cuda" else "dali-cpu"
        self._hw_decoder_load = hw_decoder_load
        self._num_threads = settings.num_threads or len(os.sched_getaffinity(0))
        self.num_samples = num_rank_samples(source.num_samples, settings)
        self.class_names = source.class_names
        self._source = source
        self._settings = settings
        self._device = device
        self._plan = _make_plan(source, settings)
        self._epoch = 0
        self._pipeline: Any = None
        self._feed: Generator[tuple[list[Any], ...]] | None = None

    @abstractmethod
    def _streams(self, images: Any) -> list[Any]:
        """The images of each stream, as nodes of the pipeline, from the decoded ones at their own size."""

    def __len__(self) -> int:
        return num_rank_batches(self._source.num_samples, self._settings)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch = epoch

    def batches(self) -> Iterator[tuple[Batch, ...]]:
        """One pass: a batch of each stream, all of the same samples."""
        if self.num_samples == 0:
            return
        epoch = self._epoch
        batches = list(rank_batches(self._source.num_samples, self._settings, epoch))
        # a pass that ends early leaves the pipeline in the middle of an epoch: such a one is not used again
        pipeline, self._pipeline = self._pipeline, None
        position = 0
        try:
            pipeline = pipeline or self._build()
            self._feed = self._encoded_batches(batches, epoch)
            for indices in batches:
                yield self._batch(self._run(pipeline), indices, epoch)
                position += 1
        except (RuntimeError, IndexError) as error:
            explained = explain(error, self._source, batches[position : position + _AHEAD + 1])
            if explained is None:
                raise
            raise explained from error
        pipeline.reset()
        self._pipeline = pipeline

    def close(self) -> None:
        """Drop the pipeline with its threads and device memory, and unmap the shards."""
        self._pipeline = None
        if self._feed is not None:
            self._feed.close()
        self._source.close()

    def _run(self, pipeline: Any) -> tuple[Any, ...]:
        if self._device.type == "cpu":
            return pipeline.run()
        # bound to torch's stream: work queued there waits for the decoding and is waited for before memory is reused
        return pipeline.run(torch.cuda.current_stream(self._device))

    def _build(self) -> Any:
        settings = self._settings
        gpu = self._device.type == "cuda"
        pipeline = dali.Pipeline(
            batch_size=settings.batch_size,
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if gpu else None,
            seed=settings.seed,
            prefetch_queue_depth=_AHEAD,
        )
        with tempfile.TemporaryDirectory(prefix="limla-") as folder, pipeline:
            if self._plan.feed:
                kinds = [types.UINT8, *([types.FLOAT] * 2 if self._plan.regions else [])]
                encoded, *region = fn.external_source(
                    source=self._next_encoded, num_outputs=len(kinds), dtype=kinds, ndim=1
                )
                pipeline.set_outputs(*self._images(encoded, region))
            else:
                tar_paths, index_paths = self._reader_paths(Path(folder))
                encoded, label, metadata = fn.readers.webdataset(
                    name=_READER,
                    paths=tar_paths,
                    index_paths=index_paths,
                    ext=[";".join(self._decoded), "cls", "json"],
                    missing_component_behavior="error",
                    # each pass starts at the first sample again; the repeated ones are cut off
                    pad_last_batch=True,
                )
                pipeline.set_outputs(*self._images(encoded, []), label, metadata)
            pipeline.build()
            if not self._plan.feed:
                listed = pipeline.epoch_size(_READER)
                if listed != self.num_samples:
                    raise DataError(
                        f"{self._source.describe()}: DALI finds {listed} samples of '{self._source.split}', "
                        f"the manifest says {self.num_samples}; remove the folder and make it again"
                    )
        return pipeline

    def _reader_paths(self, folder: Path) -> tuple[list[str], list[str]]:
        """Tars and indexes for DALI's reader; with several ranks, `folder` gets indexes of this rank's part."""
        settings, source = self._settings, self._source
        if settings.world_size == 1:
            return [_dali_path(path) for path in source.tar_paths], [
                _dali_path(index_path(path)) for path in source.tar_paths
            ]
        mine: dict[int, list[int]] = {}
        for indices in rank_batches(source.num_samples, settings, epoch=0):
            for shard, number in map(source.locate, indices.tolist()):
                mine.setdefault(shard, []).append(number)
        written: list[str] = []
        for shard, numbers in mine.items():
            version, *lines = read_bytes(index_path(source.tar_paths[shard])).decode("ascii").splitlines()
            text = "\n".join([f"{version.split()[0]} {len(numbers)}", *(lines[number] for number in numbers)])
            part = folder / f"{shard:06d}.idx"
            part.write_text(f"{text}\n", encoding="ascii")
            written.append(str(part))
        return [_dali_path(source.tar_paths[shard]) for shard in mine], written

    def _images(self, encoded: Any, region: list[Any]) -> list[Any]:
        """The pipeline from encoded bytes to each stream's images; `region` is (start, end) where regions are fed."""
        gpu = self._device.type == "cuda"
        images = fn.decoders.image(
            encoded,
            device="mixed" if gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            **(self._gpu_options() if gpu else {}),
        )
        streams = self._streams(images)
        if self._plan.resize:
            start, end = region or self._center_region(encoded)
            side = self._settings.preprocessing.image_size
            streams = [
                fn.resize(
                    images,
                    size=[side, side],
                    roi_start=start,
                    roi_end=end,
                    interp_type=types.INTERP_LINEAR,
                    antialias=True,
                    dtype=types.UINT8,
                )
                for images in streams
            ]
        if self._plan.scale:
            zero, one = [0.0] * 3, [255.0] * 3
            streams = [
                fn.crop_mirror_normalize(images, mean=zero, std=one, dtype=types.FLOAT, output_layout="CHW")
                for images in streams
            ]
        return streams

    def _gpu_options(self) -> dict[str, Any]:
        """The GPU decoder's: its hardware's share, and the largest size among some images, for its buffers."""
        num_samples = self._source.num_samples
        step = -(-num_samples // _SIZES_LOOKED_AT)
        sizes = [self._source.image_size(index) for index in range(0, num_samples, step)]
        return {
            "hw_decoder_load": self._hw_decoder_load,
            "preallocate_height_hint": max(height for height, _ in sizes),
            "preallocate_width_hint": max(width for _, width in sizes),
        }

    def _center_region(self, encoded: Any) -> tuple[Any, Any]:
        """The centre crop in source pixels, by `geometry.resized_shape` and `crop_start`.

        Resizing just that part equals resizing the whole image and cropping it: (row, column) of start, end.
        """
        preprocessing = self._settings.preprocessing
        side, shorter = preprocessing.image_size, preprocessing.resize_shorter
        shape = fn.peek_image_shape(encoded, adjust_orientation=False)
        shape = fn.slice(shape, start=[0], shape=[2], axes=[0])
        resized = shape * shorter // fn.reductions.min(shape)
        margin = resized - side
        # round(margin / 2), halves to even, in whole numbers
        half = margin // 2
        start = half + (margin & half & 1)
        scale = fn.cast(shape, dtype=types.FLOAT) / fn.cast(resized, dtype=types.FLOAT)
        return fn.cast(start, dtype=types.FLOAT) * scale, fn.cast(start + side, dtype=types.FLOAT) * scale

    def _next_encoded(self) -> tuple[list[Any], ...]:
        assert self._feed is not None
        return next(self._feed)

    def _encoded_batches(
        self, batches: list[npt.NDArray[np.int64]], epoch: int
    ) -> Generator[tuple[list[Any], ...]]:
        """What `external_source` feeds, by batches: encoded images, and starts and ends of their regions."""
        read, of_batches = self._source.read, (indices.tolist() for indices in batches)
        if self._reencoder is None:
            encoded = (
                [np.frombuffer(read(at).image, dtype=np.uint8) for at in indices] for indices in of_batches
            )
        else:
            encoded = self._reencoder.encoded(read, of_batches, epoch, self._num_threads)
        for indices, images in zip(batches, encoded, strict=True):
            yield (images, *self._regions(indices, epoch))

    def _regions(self, indices: npt.NDArray[np.int64], epoch: int) -> tuple[list[Any], ...]:
        """Starts and ends of the samples' regions, (row, column) each; nothing where the pipeline has its own."""
        source, settings = self._source, self._settings
        if not self._plan.regions:
            return ()
        starts: list[npt.NDArray[np.float32]] = []
        ends: list[npt.NDArray[np.float32]] = []
        for index in indices.tolist():
            region = random_region(*source.image_size(index), settings.seed, epoch, index)
            left, right = region.left, region.left + region.width
            if region.flip:  # DALI mirrors a region whose end lies before its start
                left, right = right, left
            starts.append(np.array([region.top, left], dtype=np.float32))
            ends.append(np.array([region.top + region.height, right], dtype=np.float32))
        return starts, ends

    def _batch(self, outputs: tuple[Any, ...], indices: npt.NDArray[np.int64], epoch: int) -> tuple[Batch, ...]:
        if self._plan.feed:
            streams = outputs
            records = [self._source.read(index) for index in indices.tolist()]
            keys = [record.key for record in records]
            labels = [record.label for record in records]
        else:
            *streams, classes, metadata = outputs
            keys = [self._key(metadata.at(slot), indices[0]) for slot in range(len(indices))]
            labels = [
                self._label(classes.at(slot), int(index), keys[slot]) for slot, index in enumerate(indices)
            ]
        on_device = torch.tensor(labels, dtype=torch.int64, device=self._device)
        return tuple(
            Batch(tuple(keys), self._tensor(images, keys, indices, epoch), on_device) for images in streams
        )

    def _key(self, metadata: npt.NDArray[np.uint8], index: int) -> str:
        try:
            return str(json.loads(metadata.tobytes())["key"])
        except (ValueError, KeyError, TypeError) as error:
            path = self._source.tar_paths[self._source.locate(int(index))[0]]
            raise DataError(f"{path}: a 'json' member holds no key; make the shard again") from error

    def _label(self, data: npt.NDArray[np.uint8], index: int, key: str) -> int:
        shard, _ = self._source.locate(index)
        try:
            label = int(data.tobytes())
        except ValueError as error:
            path = self._source.tar_paths[shard]
            raise DataError(f"{path}: 'cls' of '{key}' is {data.tobytes()!r}, not a number") from error
        return self._source.check_label(label, shard, key)

    def _tensor(self, images: Any, keys: list[str], indices: npt.NDArray[np.int64], epoch: int) -> torch.Tensor:
        """DALI's images as a torch tensor (n, 3, H, W) float32 on the device; nothing else writes to its memory."""
        if not self._plan.scale:
            return self._resized_here(images, keys, indices, epoch)
        if self._settings.preprocessing.resize == "none":
            shapes = images.shape()[: len(keys)]
            check_one_size([(key, shape[1], shape[2]) for key, shape in zip(keys, shapes, strict=True)])
            # the repeated samples at the end of the last batch have the last one's size
        dense = images.as_tensor()
        if self._device.type == "cuda":
            return torch.from_dlpack(dense)[: len(keys)]
        batch = torch.empty(tuple(dense.shape()), dtype=torch.float32)
        np.copyto(batch.numpy(), np.asarray(dense))
        return batch[: len(keys)]

    def _resized_here(
        self, images: Any, keys: list[str], indices: npt.NDArray[np.int64], epoch: int
    ) -> torch.Tensor:
        settings = self._settings
        if self._device.type == "cuda":
            images = images.as_cpu()
        pixels = [np.array(images.at(slot)) for slot in range(len(keys))]
        side = settings.preprocessing.image_size
        shapes = [(image.shape[0], image.shape[1]) if settings.augment else (side, side) for image in pixels]
        check_one_size([(key, height, width) for key, (height, width) in zip(keys, shapes, strict=True)])
        height, width = shapes[0]
        batch = torch.empty((len(pixels), 3, height, width), dtype=torch.float32)
        for image, index, planes in zip(pixels, indices.tolist(), batch.numpy(), strict=True):
            if settings.augment:
                region_planes(image, random_region(height, width, settings.seed, epoch, index), planes)
            else:
                center_planes(image, settings.preprocessing, planes)
        return batch.to(self._device)
