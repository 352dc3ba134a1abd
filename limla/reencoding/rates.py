"""Equal rates: the one quality of a codec at which a dataset takes a given number of bits per pixel."""

from __future__ import annotations

import hashlib
import heapq
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.codecs.decoding import decode_image, is_learned
from limla.codecs.matching import check_rate, nearest_quality
from limla.errors import DataError, LimlaError, SettingsError
from limla.manifest import SOURCE, Manifest, local_shard, read_manifest
from limla.metrics import rate_bpp
from limla.paths import AnyPath
from limla.progress import SILENT, Progress
from limla.shard_reader import ShardReader, read_indexes
from limla.shards import ShardEntry


@dataclass(frozen=True)
class Matched:
    """The quality found for a rate.

    Attributes:
        target_bpp: bits per pixel asked for.
        quality: of the codec, the nearest one.
        mean_bpp: what it takes, the mean over the images that were tried.
        num_images: that were tried.
    """

    target_bpp: float
    quality: int
    mean_bpp: float
    num_images: int


def match_rates(
    data_dir: AnyPath,
    codec: str,
    targets_bpp: Sequence[float],
    num_images: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Matched, ...]:
    """For each rate the quality at which the mean over the dataset's originals comes nearest to it, by bisection.

    Args:
        data_dir: holds "source".
        codec: of the catalogue, with knobs as in "jpeg:subsampling=444".
        targets_bpp: bits per pixel, headers included.
        num_images: the most that are tried: drawn by `seed` from all splits, the same ones as `limla reencode`
            measures; of a learned codec not those of train, on which it does better.
        workers: threads; None means one for each usable core.

    Images are decoded again for each quality tried, so that memory does not grow with them. Raises `SettingsError` for
    a rate below that of the lowest quality or above that of the highest, and `DataError` for damaged shards.
    """
    for target in targets_bpp:
        check_rate(target)
    plug = build_codec(codec)
    source = read_manifest(data_dir / SOURCE)
    if is_learned(codec):
        source = replace(source, shards=tuple(shard for shard in source.shards if shard.split != "train"))
    drawn = draw_samples(data_dir / SOURCE, source, seed, num_images)
    total = sum(map(len, drawn.values()))
    if not total:
        raise DataError(f"{data_dir / SOURCE}: no images to find a quality with")
    threads = workers or len(os.sched_getaffinity(0))
    means: dict[int, float] = {}
    with ThreadPoolExecutor(threads, "limla-rates") as pool:

        def mean_bpp(quality: int) -> float:
            if quality not in means:
                title = f"{plug.name} at {plug.scale.knob} {quality}"
                with progress.stage(title, total) as advance:
                    rates: list[float] = []
                    for shard in source.shards:
                        if numbers := sorted(drawn[shard.name]):
                            found = _rates(pool, plug, quality, data_dir / SOURCE, shard, numbers)
                            for rate in found:
                                rates.append(rate)
                                advance(1)
                means[quality] = math.fsum(rates) / total
            return means[quality]

        qualities = plug.scale.from_worst()
        for target in targets_bpp:
            lowest, highest = mean_bpp(qualities[0]), mean_bpp(qualities[-1])
            if not lowest <= target <= highest:
                raise SettingsError(
                    f"{codec} cannot take {target:g} bits per pixel of these images: choose {lowest:.3g} to "
                    f"{highest:.3g}, what its {plug.scale.knob} {qualities[0]} and {qualities[-1]} take"
                )
        chosen = {target: nearest_quality(plug.scale, mean_bpp, target) for target in targets_bpp}
    return tuple(Matched(target, quality, means[quality], total) for target, quality in chosen.items())


def draw_samples(folder: AnyPath, source: Manifest, seed: int, number: int) -> dict[str, set[int]]:
    """At most `number` samples: shard name → their numbers in it.

    The images whose key has the smallest hash: the same ones whatever the shards' size and the qualities.
    """
    found: dict[str, set[int]] = {shard.name: set() for shard in source.shards}
    if not number:
        return found

    def ranked() -> Iterator[tuple[bytes, str, int]]:
        for shard, places in zip(source.shards, read_indexes(folder, source.shards), strict=True):
            for place_number, place in enumerate(places):
                text = f"{seed}:{place.key}".encode()
                yield hashlib.blake2b(text, digest_size=16).digest(), shard.name, place_number

    for _, name, place_number in heapq.nsmallest(number, ranked()):
        found[name].add(place_number)
    return found


def _rates(
    pool: ThreadPoolExecutor,
    codec: Codec,
    quality: int,
    folder: AnyPath,
    shard: ShardEntry,
    numbers: Sequence[int],
) -> Iterator[float]:
    """Bits per pixel of some samples of a shard at a quality."""
    with local_shard(folder, shard) as path, ShardReader(folder / shard.name, path) as reader:

        def rate(number: int) -> float:
            extension = reader.locations.extension(number)
            try:
                image = decode_image(reader.member(number, extension), extension)
                return rate_bpp(len(codec.encode(image, quality)), *image.shape[:2])
            except LimlaError as error:
                key = reader.locations.key(number)
                raise DataError(f"{folder / shard.name}: sample '{key}': {error}") from error

        yield from pool.map(rate, numbers)
