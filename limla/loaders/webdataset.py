"""The reference loader: webdataset's pipeline, Pillow and torch's DataLoader, as most people load shards today.

For cross checks and benchmarks; the `cpu` loader gives the same images several times faster.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import webdataset
import webdataset.tariterators
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms import v2

from limla.codecs.base import Codec
from limla.codecs.container import EXTENSION
from limla.codecs.decoding import decode_image
from limla.codecs.pillow import DAMAGE
from limla.errors import DataError
from limla.loaders.base import LoaderSettings
from limla.loaders.geometry import check_one_size
from limla.loaders.order import num_rank_batches, num_rank_samples
from limla.loaders.reencoding import reencoder_of
from limla.loaders.source import ShardSource
from limla.shards import COMPANIONS
from limla.types import Batch

# webdataset fills its namespaces at import, which no type checker can follow
wds: Any = webdataset
tariterators: Any = webdataset.tariterators

_SHUFFLE_BUFFER = 1000


class WebDatasetLoader:
    """Reads tars in order, decodes by Pillow, resizes and crops by torchvision on Pillow images.

    Formats that Pillow does not know are decoded by their codecs.

    With `num_threads` over 1 (or None on several cores) the work is done in that many DataLoader processes:
    each reads all the tars and decodes every n-th batch, so that the order is the one of a single process.
    Training shuffles the shards, and samples within a buffer of 1000; augmentation is torchvision's own.
    """

    decoder = "webdataset"

    def __init__(self, source: ShardSource, settings: LoaderSettings) -> None:
        self.num_samples = num_rank_samples(source.num_samples, settings)
        self.class_names = source.class_names
        self._source = source
        self._settings = settings
        self._epoch = 0

    def __len__(self) -> int:
        return num_rank_batches(self._source.num_samples, self._settings)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        settings = self._settings
        cores = len(os.sched_getaffinity(0))
        num_workers = min(settings.num_threads or cores, cores)
        dataset = _Batches(self._source, settings, self._epoch)
        for item in DataLoader(dataset, batch_size=None, num_workers=num_workers if num_workers > 1 else 0):
            if isinstance(item, str):
                raise DataError(item)
            keys, images, labels = item
            yield Batch(tuple(keys), images.to(settings.device), labels.to(settings.device))

    def close(self) -> None:
        """Nothing stays open between passes."""
        self._source.close()


_Decoded = tuple[str, torch.Tensor, int]


class _Batches(IterableDataset[Any]):
    """The batches of one rank and one worker: (keys, images, labels), or a message when the data is damaged.

    A message and not an exception, which the DataLoader would wrap into a traceback of many lines.
    """

    def __init__(self, source: ShardSource, settings: LoaderSettings, epoch: int) -> None:
        super().__init__()
        # plain values only: the dataset travels to worker processes, an open source cannot
        self._urls = [str(source.local_tar(number)) for number in range(len(source.tar_paths))]
        self._codecs = _learned_codecs(source, self._urls)
        self._num_samples = source.num_samples
        self._num_classes = len(source.class_names)
        self._settings = settings
        self._reencoder = reencoder_of(settings)
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor] | str]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            for position, samples in enumerate(self._rank_batches()):
                if position % num_workers == number:
                    first = position * self._settings.batch_size
                    yield self._collate([self._decode(sample, first + i) for i, sample in enumerate(samples)])
        except DataError as error:
            yield str(error)

    def _samples(self) -> Iterator[dict[str, Any]]:
        """All encoded samples in this epoch's order, counted: webdataset passes some truncations in silence."""
        settings = self._settings
        urls = list(self._urls)
        generator = random.Random(f"{settings.seed} {self._epoch}")
        if settings.training:
            generator.shuffle(urls)
        samples = tariterators.group_by_keys(tariterators.tar_file_expander(_opened(urls)))
        if settings.training:
            samples = wds.shuffle(_SHUFFLE_BUFFER, initial=_SHUFFLE_BUFFER, rng=generator)(samples)
        count = 0
        for sample in samples:
            count += 1
            yield sample
        if count != self._num_samples:
            raise DataError(
                f"{', '.join(self._urls)}: webdataset finds {count} samples, the manifest says "
                f"{self._num_samples}; remove the folder and make it again"
            )

    def _rank_batches(self) -> Iterator[list[dict[str, Any]]]:
        """This rank's batches by the rules of `limla.loaders.order`, from a stream."""
        settings = self._settings
        size, rank, world_size = settings.batch_size, settings.rank, settings.world_size
        if not settings.training:
            for number, batch in enumerate(_grouped(self._samples(), size)):
                if number % world_size == rank:
                    yield batch
            return
        total = num_rank_samples(self._num_samples, settings) * world_size
        stream = itertools.islice(_continued(self._samples(), total - self._num_samples), total)
        yield from _grouped(itertools.islice(stream, rank, None, world_size), size)

    def _decode(self, sample: dict[str, Any], position: int) -> _Decoded:
        settings = self._settings
        where = f"{sample['__url__']}: sample '{sample['__key__']}'"
        try:
            key = str(json.loads(sample["json"])["key"])
            label = int(sample["cls"])
            extension = next(name for name in sample if name not in COMPANIONS and not name.startswith("__"))
        except (KeyError, ValueError, StopIteration) as error:
            raise DataError(f"{where}: json, cls or image member missing or damaged; make it again") from error
        if not 0 <= label < self._num_classes:
            raise DataError(f"{where} has class {label}, but the manifest lists {self._num_classes} classes")
        try:
            picture = _picture(sample[extension], extension, self._codecs.get(sample["__url__"]))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if self._reencoder is not None:
            picture = PIL.Image.fromarray(self._reencoder.image(np.asarray(picture), key, self._epoch))
        with torch.random.fork_rng(devices=[], enabled=settings.augment):
            if settings.augment:
                seeds = np.random.SeedSequence((settings.seed, self._epoch, settings.rank, position))
                torch.manual_seed(int(seeds.generate_state(1)[0]))
            return key, _transform(settings, picture.height, picture.width)(picture), label

    @staticmethod
    def _collate(samples: list[_Decoded]) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        check_one_size((key, image.shape[1], image.shape[2]) for key, image, _ in samples)
        images = torch.stack([image for _, image, _ in samples])
        return [key for key, _, _ in samples], images, torch.tensor([label for *_, label in samples])


def _learned_codecs(source: ShardSource, urls: list[str]) -> dict[str, Codec]:
    """Tar → the learned codec that alone reads it; none of most shards."""
    if EXTENSION not in source.extensions:
        return {}
    first = itertools.accumulate((0, *source.counts[:-1]))
    found = ((url, source.read(index).codec) for url, index in zip(urls, first, strict=True))
    return {url: codec for url, codec in found if codec is not None}


def _picture(data: bytes, extension: str, codec: Codec | None) -> PIL.Image.Image:
    """JPEG by Pillow itself; the other formats of Pillow, and those it does not know, as their codecs decode them."""
    if codec is not None:
        return PIL.Image.fromarray(codec.decode(data))
    if extension != "jpg":
        return PIL.Image.fromarray(decode_image(data, extension))
    try:
        return PIL.Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB")
    except DAMAGE as error:
        raise DataError(f"not a decodable JPEG: {error}") from error


def _transform(settings: LoaderSettings, height: int, width: int) -> Callable[[PIL.Image.Image], torch.Tensor]:
    """torchvision's own preprocessing of a Pillow image, to (3, H, W) float32 in [0, 1]."""
    preprocessing = settings.preprocessing
    none = preprocessing.resize == "none"
    steps: list[torch.nn.Module] = []
    if settings.augment:
        shape = (height, width) if none else (preprocessing.image_size,) * 2
        steps += [v2.RandomResizedCrop(shape), v2.RandomHorizontalFlip()]
    elif not none:
        steps += [v2.Resize(preprocessing.resize_shorter), v2.CenterCrop(preprocessing.image_size)]
    return v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def _opened(urls: Iterable[str]) -> Iterator[dict[str, Any]]:
    """As webdataset's `url_opener` for local files, which leaves each of them open."""
    for url in urls:
        with Path(url).open("rb") as stream:
            yield {"url": url, "stream": stream}


def _grouped(samples: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _continued(samples: Iterable[dict[str, Any]], num_more: int) -> Iterator[dict[str, Any]]:
    """The samples, then the first `num_more` of them again."""
    first: list[dict[str, Any]] = []
    for sample in samples:
        if len(first) < num_more:
            first.append(sample)
        yield sample
    yield from itertools.islice(itertools.cycle(first), num_more)
