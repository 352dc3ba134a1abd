"""The stage: what is asked for, what is there already, the work that remains, the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from limla.codecs import build_codec
from limla.codecs.base import Codec, Learned
from limla.codecs.matching import inner_codec
from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import SettingsError
from limla.files import absolute, check_visible, exclusive, remove_unfinished
from limla.manifest import SOURCE, Manifest, library_versions, read_manifest, variant_name, verify_shards
from limla.paths import AnyPath, is_remote
from limla.progress import SILENT, Progress
from limla.reencoding.rates import draw_samples
from limla.reencoding.shard import ReencodeShard, ShardJob
from limla.reencoding.variant import Variant, VariantSummary, part_path
from limla.registry import ENGINES

LOCK = ".reencode.lock"
_FOLDERS_AT_ONCE = 3
_FOLDERS_AT_ONCE_IN_A_STORE = 8
"""Beginning and finishing a folder is mostly waiting; on a disk more threads only get in each other's way."""


@dataclass(frozen=True)
class ReencodeSettings:
    """What to make.

    Attributes:
        codec: of the catalogue, with knobs as the command line writes them ("jpeg", "jpeg:subsampling=444").
        qualities: on the codec's scale; at least one.
        subsampling: chroma subsampling, pinned and recorded; None leaves it to the codec (JPEG: 4:2:0).
        measure: of how many images PSNR and SSIM are measured: a number, "all" or "none". The images are
            drawn by `seed` from all splits and are the same at every quality.
        seed: of that draw.
        workers: threads in all; None means one for each usable core. Does not change the bytes.
        engine: a name of the engine catalogue.
    """

    codec: str = "jpeg"
    qualities: tuple[int, ...] = (1, 5, 10, 50, 90)
    subsampling: str | None = None
    measure: int | Literal["all", "none"] = 256
    seed: int = 0
    workers: int | None = None
    engine: str = "local"

    def __post_init__(self) -> None:
        codec = self.build_codec()
        if not self.qualities:
            raise SettingsError("no quality: name at least one")
        for quality in self.qualities:
            codec.scale.check(quality)
        object.__setattr__(self, "qualities", tuple(sorted(set(self.qualities))))
        if self.measure not in ("all", "none") and (not isinstance(self.measure, int) or self.measure < 0):
            raise SettingsError(f"measure {self.measure!r}: choose a number of images from 0, all or none")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"{self.workers} workers: choose at least 1")
        ENGINES.check(self.engine)

    def build_codec(self) -> Codec:
        """The codec with its pinned knobs."""
        knobs = {} if self.subsampling is None else {"subsampling": self.subsampling}
        return build_codec(self.codec, **knobs)


@dataclass(frozen=True)
class ReencodeResult:
    """What is there after a run.

    Attributes:
        variants: every quality asked for, in order.
        made: names of the variants this run completed; the others were complete before.
        num_images: images in each variant.
    """

    variants: tuple[VariantSummary, ...]
    made: tuple[str, ...]
    num_images: int


def reencode(
    data_dir: AnyPath, settings: ReencodeSettings, progress: Progress = SILENT, engine: Engine | None = None
) -> ReencodeResult:
    """Make `<data_dir>/<codec>-q<quality>` of `<data_dir>/source` for each quality that is not complete yet.

    Same keys in the same order, one EncodingRow per image. Goes on where an interrupted run stopped, and makes
    again what a finished folder lost (files are judged by presence, size and index; `limla verify` reads all);
    the bytes do not depend on interruptions, on the number of workers, or on which qualities are made together.

    Raises `DataError` for missing or damaged source shards, `SettingsError` when a folder was made with other
    settings or another process is at work on `data_dir`, `OSError` when the disk is full.
    """
    engine = engine or build_engine(settings.engine, settings.workers)
    source = read_manifest(data_dir / SOURCE)
    for split in source.splits():
        # presence and size now, the contents as each shard comes to its turn
        verify_shards(data_dir / SOURCE, source, split, contents=False)
    at_once = _FOLDERS_AT_ONCE_IN_A_STORE if is_remote(data_dir) else _FOLDERS_AT_ONCE
    with exclusive(data_dir / LOCK, "limla reencode"), ThreadPoolExecutor(at_once) as pool:
        variants = _variants(data_dir, settings, source)
        pending = [variant for variant in variants if not _is_complete(variant, progress)]
        for variant in variants:
            if variant not in pending:
                variant.tidy()
        jobs = _jobs(data_dir, source, pending, settings)
        work = ReencodeShard(absolute(data_dir), SOURCE, settings.build_codec())
        if jobs and getattr(engine, "works_here", False):
            pool.submit(work.prepare, settings.qualities)  # what it raises, the first image raises again
        list(pool.map(Variant.begin, pending))
        try:
            _run(work, jobs, progress, engine)
        finally:
            for variant in pending:
                remove_unfinished(variant.folder)
        list(pool.map(lambda variant: variant.finish(source), pending))
    if not pending:
        names = ", ".join(variant.folder.name for variant in variants)
        progress.say(f"nothing to do: {names} {'is' if len(variants) == 1 else 'are'} complete")
    return ReencodeResult(
        variants=tuple(variant.summary() for variant in variants),
        made=tuple(variant.folder.name for variant in pending),
        num_images=source.num_samples(),
    )


def _is_complete(variant: Variant, progress: Progress) -> bool:
    """Whether nothing is to be done; a finished folder that lost files is made to lack just those."""
    if not variant.is_complete():
        return False
    damage = variant.damage()
    if not damage:
        return True
    progress.say(f"{variant.folder}: missing or damaged, made again: {damage}")
    variant.reopen()
    return False


def _variants(data_dir: AnyPath, settings: ReencodeSettings, source: Manifest) -> list[Variant]:
    codec = settings.build_codec()
    shared: dict[str, Any] = {
        "codec": codec.name,
        **codec.settings(),
        "measure": settings.measure,
        "seed": settings.seed,
        "source": {split: source.data_id(split) for split in source.splits()},
    }
    versions = {**library_versions(()), "codec": codec.version()}
    learned = inner_codec(codec)
    weights = learned.weights_bytes() if isinstance(learned, Learned) else None
    return [
        Variant(
            folder=data_dir / variant_name(codec.name, quality),
            codec=codec.name,
            quality=quality,
            settings={**shared, "quality": quality},
            versions=versions,
            weights=weights,
        )
        for quality in settings.qualities
    ]


def _jobs(
    data_dir: AnyPath, source: Manifest, pending: list[Variant], settings: ReencodeSettings
) -> list[ShardJob]:
    finished = [(variant.quality, variant.finished()) for variant in pending]
    missing = {
        shard.name: tuple(quality for quality, names in finished if shard.name not in names)
        for shard in source.shards
    }
    if not any(missing.values()):
        return []
    measured = _measured(data_dir / SOURCE, source, settings)
    return [
        ShardJob(shard, missing[shard.name], None if measured is None else measured[shard.name])
        for shard in source.shards
        if missing[shard.name]
    ]


def _measured(
    folder: AnyPath, source: Manifest, settings: ReencodeSettings
) -> dict[str, frozenset[int]] | None:
    """The sample numbers to measure in each shard; None means all."""
    if settings.measure == "all":
        return None
    number = 0 if settings.measure == "none" else int(settings.measure)
    drawn = draw_samples(folder, source, settings.seed, number)
    return {name: frozenset(numbers) for name, numbers in drawn.items()}


def _run(work: ReencodeShard, jobs: list[ShardJob], progress: Progress, engine: Engine) -> None:
    if not jobs:
        return
    num_images = sum(job.shard.num_samples for job in jobs)
    qualities = sorted({quality for job in jobs for quality in job.qualities})
    shown = ", ".join(map(str, qualities)) if len(qualities) <= 8 else f"{len(qualities)} values"
    title = f"re-encoding at {work.codec.scale.knob} {shown}"
    with progress.stage(title, num_images) as advance, closing(engine.map(work, jobs, advance)) as names:
        for job, name in zip(jobs, names, strict=True):
            for quality in job.qualities:
                check_visible(part_path(work.data_dir / variant_name(work.codec.name, quality) / name))
