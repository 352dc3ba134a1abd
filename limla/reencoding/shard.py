"""The unit of work: one source shard at several qualities, one decode per image."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
from limla.shards import ShardEntry, open_shard
from limla.types import Image


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
        costs: list[list[Cost]] = [[] for _ in job.qualities]

        def encode(number: int) -> list[_Encoded]:
            measured = job.measured is None or number in job.measured
            return self._encode(samples, number, job.qualities, measured)

        with ExitStack() as stack:
            copy = stack.enter_context(local_shard(folder, job.shard))
            samples = stack.enter_context(_SourceShard(folder / job.shard.name, copy, job.shard.num_samples))
            writers = [stack.enter_context(open_shard(target)) for target in targets]
            results = stack.enter_context(closing(share.spread(encode, range(job.shard.num_samples))))
            for encoded in results:
                for writer, costs_here, (members, cost) in zip(writers, costs, encoded, strict=True):
                    writer.add(cost.key, members)
                    costs_here.append(cost)
                share.advance(1)
        for target, writer, costs_here in zip(targets, writers, costs, strict=True):
            write_part(target, writer.entry(target.name, job.shard.split), costs_here)
        return job.shard.name

    def _encode(
        self, samples: _SourceShard, number: int, qualities: tuple[int, ...], measured: bool
    ) -> list[_Encoded]:
        place, members = samples.read(number)
        where = f"{samples.path}: sample '{place.key}'"
        try:
            image = decode_image(members[place.extension], place.extension)
            metadata = json.loads(bytes(members["json"]))
        except ValueError as error:  # of which DataError is one
            raise DataError(f"{where}: {error}; pack the dataset again") from error
        label = bytes(members["cls"])
        texts = _MetadataTexts(place.key, image, metadata.get("class_name"), self.codec.name)
        try:
            return [
                _Encoded(
                    {self.codec.extension: data, "cls": label, "json": texts.at(quality, len(data))},
                    self._cost(place.key, image, data, measured),
                )
                for quality, data in zip(qualities, encode_each(self.codec, image, qualities), strict=True)
            ]
        except LimlaError as error:
            raise DataError(f"{where}: {error}") from error

    def _cost(self, key: str, image: Image, data: bytes, measured: bool) -> Cost:
        height, width = image.shape[:2]
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


class _MetadataTexts:
    """The `json` members of one image: what its qualities have in common is written as JSON once."""

    def __init__(self, key: str, image: Image, class_name: str | None, codec: str) -> None:
        height, width = image.shape[:2]
        metadata = {"key": key, "height": height, "width": width, "codec": codec, "num_bytes": 0, "quality": 0}
        if class_name is not None:
            metadata["class_name"] = class_name
        # the keys are sorted, so only a number (the width) follows these two
        self._before, found, self._after = canonical_json(metadata).rpartition('"num_bytes":0,"quality":0')
        assert found

    def at(self, quality: int, num_bytes: int) -> bytes:
        return f'{self._before}"num_bytes":{num_bytes},"quality":{quality}{self._after}'.encode("ascii")


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

    def read(self, number: int) -> tuple[Location, dict[str, memoryview]]:
        """The members of one sample, read at once (they stand together)."""
        place = self._places[number]
        for extension in ("cls", "json"):
            if extension not in place.members:
                raise DataError(
                    f"{self.path}: sample '{place.key}' has no '{extension}'; pack the dataset again"
                )
        start = min(offset for offset, _ in place.members.values())
        end = max(offset + num_bytes for offset, num_bytes in place.members.values())
        data = memoryview(os.pread(self._descriptor, end - start, start))
        return place, {
            extension: data[offset - start : offset - start + num_bytes]
            for extension, (offset, num_bytes) in place.members.items()
        }
