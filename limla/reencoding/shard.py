"""The unit of work: one source shard at several qualities, one decode per image."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from limla.codecs.base import Codec, encode_each
from limla.codecs.decoding import decode_image
from limla.engines.base import Share
from limla.errors import DataError, LimlaError
from limla.files import canonical_json
from limla.manifest import local_shard, variant_name
from limla.metrics import psnr_db, ssim
from limla.paths import AnyPath
from limla.reencoding.variant import Cost, write_part
from limla.shard_reader import Location, read_index
from limla.shards import COMPANIONS, ShardEntry, check_key, open_shard
from limla.storage import in_parallel
from limla.types import Image

_RUN_BYTES = 1 << 18
_RUN_SAMPLES = 64
_RUNS_PER_THREAD = 4
"""At least as many, where a shard has the samples: a shard of a few small ones keeps all threads busy too."""


@dataclass(frozen=True)
class ShardJob:
    """One source shard and what is still to be made of it.

    Attributes:
        shard: the source shard.
        qualities: those whose folder does not hold the shard yet.
        measured: numbers of the samples whose PSNR and SSIM are wanted; None means all.
    """

    shard: ShardEntry
    qualities: tuple[int, ...]
    measured: frozenset[int] | None


class _Encoded(NamedTuple):
    """One image at one quality: the members of its sample, and what it costs."""

    members: dict[str, bytes]
    cost: Cost


@dataclass(frozen=True)
class ReencodeShard:
    """Re-encodes shards; picklable, so that an engine can call it anywhere.

    Attributes:
        data_dir: the dataset's folder.
        source: name of the folder in it that is read.
        codec: encodes.
    """

    data_dir: AnyPath
    source: str
    codec: Codec

    def __call__(self, job: ShardJob, share: Share) -> str:
        """Make the job's shard in every quality's folder; returns its name.

        Raises `DataError` naming the shard, and the sample where one is to blame, for damaged data;
        `OSError` when the disk is full. What is half done is removed.
        """
        folder = self.data_dir / self.source
        targets = [
            self.data_dir / variant_name(self.codec.name, quality) / job.shard.name for quality in job.qualities
        ]
        with ExitStack() as stack:
            copy = stack.enter_context(local_shard(folder, job.shard))
            samples = stack.enter_context(_SourceShard(folder / job.shard.name, copy, job.shard.num_samples))
            files = [stack.enter_context(_TargetShard(target, job.shard.split)) for target in targets]
            encode = functools.partial(self._encode, samples, job)
            results = stack.enter_context(closing(share.spread(encode, samples.runs(share.num_threads))))
            for run in results:
                for encoded in run:
                    for file, (members, cost) in zip(files, encoded, strict=True):
                        file.add(members, cost)
                share.advance(len(run))
            # each mostly waits for the disk: together they wait once
            for step in (_TargetShard.close, _TargetShard.record):
                for _ in in_parallel(step, files):
                    pass
        return job.shard.name

    def prepare(self, qualities: tuple[int, ...]) -> None:
        """Encode a small gray image: what a codec loads for its first one is then there for every thread."""
        encode_each(self.codec, np.full((16, 16, 3), 128, np.uint8), qualities)

    def _encode(self, samples: _SourceShard, job: ShardJob, numbers: range) -> list[list[_Encoded]]:
        """Some neighbouring samples, each at every quality."""
        return [
            self._encode_one(
                f"{samples.path}: sample '{place.key}'",
                place,
                members,
                job.qualities,
                job.measured is None or number in job.measured,
            )
            for number, place, members in samples.read(numbers)
        ]

    def _encode_one(
        self,
        where: str,
        place: Location,
        members: dict[str, memoryview],
        qualities: tuple[int, ...],
        measured: bool,
    ) -> list[_Encoded]:
        try:
            image = decode_image(members[place.extension], place.extension)
            metadata = json.loads(bytes(members["json"]))
        except ValueError as error:  # of which DataError is one
            raise DataError(f"{where}: {error}; pack the dataset again") from error
        label = bytes(members["cls"])
        height, width, _ = image.shape
        text = metadata_text(self.codec.name, place.key, height, width, metadata.get("class_name"))
        try:
            return [
                _Encoded(
                    {self.codec.extension: data, "cls": label, "json": text(quality, len(data))},
                    self._cost(place.key, image, data, measured),
                )
                for quality, data in zip(qualities, encode_each(self.codec, image, qualities), strict=True)
            ]
        except LimlaError as error:
            raise DataError(f"{where}: {error}") from error

    def _cost(self, key: str, image: Image, data: bytes, measured: bool) -> Cost:
        height, width, _ = image.shape
        if not measured:
            return Cost(key, height, width, len(data), None, None)
        decoded = self.codec.decode(data)
        similarity = ssim(image, decoded)
        return Cost(
            key,
            height,
            width,
            len(data),
            psnr_db(image, decoded),
            None if math.isnan(similarity) else similarity,
        )


def metadata_text(
    codec: str, key: str, height: int, width: int, class_name: str | None
) -> Callable[[int, int], bytes]:
    """The `json` member of one image, given a quality and the encoded image's bytes: canonical JSON.

    Put together from its parts, as only two numbers differ between the qualities of an image.
    """
    name = "" if class_name is None else f'"class_name":{_quoted(class_name)},'
    before = f'{{{name}"codec":{_quoted(codec)},"height":{height},"key":"{check_key(key)}","num_bytes":'
    after = f',"width":{width}}}'
    return lambda quality, num_bytes: f'{before}{num_bytes},"quality":{quality}{after}'.encode("ascii")


_quoted = functools.lru_cache(maxsize=4096)(canonical_json)


class _TargetShard:
    """One shard being made: its tar, its index, and last its record of what the images cost."""

    def __init__(self, path: AnyPath, split: str) -> None:
        self._path = path
        self._split = split
        self._costs: list[Cost] = []
        self._open = ExitStack()
        self._writer = self._open.enter_context(open_shard(path))

    def __enter__(self) -> _TargetShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is not complete."""
        self._open.__exit__(kind, error, trace)

    def add(self, members: dict[str, bytes], cost: Cost) -> None:
        """Append one sample."""
        self._writer.add(cost.key, members)
        self._costs.append(cost)

    def close(self) -> None:
        """Bring the tar and its index to disk."""
        self._open.close()

    def record(self) -> None:
        """Say that the shard is finished."""
        write_part(self._path, self._writer.entry(self._path.name, self._split), self._costs)


class _SourceShard:
    """Reads samples of a shard by number, from any thread.

    With `pread`, not through a memory map: pages that a map has touched count as memory of the process, and
    a shard may be large.
    """

    def __init__(self, path: AnyPath, copy: Path, num_samples: int) -> None:
        self.path = path
        self._places = read_index(copy)
        if len(self._places) != num_samples:
            raise DataError(
                f"{path}: its index lists {len(self._places)} samples, the manifest {num_samples}; "
                "pack the dataset again"
            )
        self._descriptor = os.open(copy, os.O_RDONLY)

    def __enter__(self) -> _SourceShard:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _starts(self) -> Iterator[int]:
        """Where each sample's image stands."""
        for number in range(len(self._places)):
            span = self._places.span(number, self._places.extension(number))
            assert span is not None
            yield span[0]

    def runs(self, num_threads: int) -> Iterator[range]:
        """The numbers of all samples, in order, in runs of about `_RUN_BYTES`: a thread is called once for each."""
        most = min(_RUN_SAMPLES, max(1, len(self._places) // (_RUNS_PER_THREAD * num_threads)))
        first, start = 0, 0
        for number, offset in enumerate(self._starts()):
            if number > first and (number - first >= most or offset - start >= _RUN_BYTES):
                yield range(first, number)
                first, start = number, offset
        if first < len(self._places):
            yield range(first, len(self._places))

    def read(self, numbers: range) -> Iterator[tuple[int, Location, dict[str, memoryview]]]:
        """The number, place and members of each of some neighbouring samples, read at once."""
        places = [self._places[number] for number in numbers]
        for place in places:
            for extension in COMPANIONS:
                if extension not in place.members:
                    raise DataError(
                        f"{self.path}: sample '{place.key}' has no '{extension}'; pack the dataset again"
                    )
        spans = [span for place in places for span in place.members.values()]
        start = min(offset for offset, _ in spans)
        end = max(offset + num_bytes for offset, num_bytes in spans)
        data = memoryview(os.pread(self._descriptor, end - start, start))
        for number, place in zip(numbers, places, strict=True):
            yield (
                number,
                place,
                {
                    extension: data[offset - start : offset - start + num_bytes]
                    for extension, (offset, num_bytes) in place.members.items()
                },
            )
