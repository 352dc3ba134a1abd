"""The stage: what is there already, the work in order, the end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import DataError, SettingsError
from limla.files import (
    absolute,
    canonical_json,
    check_visible,
    content_id,
    exclusive,
    remove_unfinished,
    write_bytes,
)
from limla.manifest import (
    FILE_NAME,
    SOURCE,
    SPLITS,
    Manifest,
    check_settings,
    library_versions,
    read_manifest,
    verify_shards,
)
from limla.metrics import rate_bpp
from limla.packing.audit import Audit
from limla.packing.discovery import Discovery, discover
from limla.packing.folder import PackFolder, Part, part_path, read_part, tidy
from limla.packing.planning import ShardPlan, cut
from limla.packing.reading import Refused
from limla.packing.settings import PackSettings
from limla.packing.shard import PackShard
from limla.packing.splitting import plan, planned_splits
from limla.paths import AnyPath, is_remote
from limla.pictures.walking import printable
from limla.progress import SILENT, Progress
from limla.results import ENCODING_SCHEMA, EncodingRow, encoding_table, table_writer
from limla.shards import ShardEntry, index_path
from limla.storage import in_parallel, listing, make_folder

LOCK = ".pack.lock"
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class PackResult:
    """What is there after a run.

    Attributes:
        manifest: of the source shards; its summary holds the audit.
        folder: the shards' folder.
        found, packed, quarantined: picture files; found = packed + quarantined.
        skipped: reason → entries that are no pictures, or hidden.
        quarantine: the list of quarantined files, one JSON object per line.
        warnings: what the user should know about the data.
        made: False when the same folder was packed before with the same settings.
    """

    manifest: Manifest
    folder: AnyPath
    found: int
    packed: int
    quarantined: int
    skipped: dict[str, int]
    quarantine: AnyPath
    warnings: tuple[str, ...]
    made: bool


def pack(
    source: Path,
    data_dir: AnyPath,
    settings: PackSettings | None = None,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> PackResult:
    """Write `<data_dir>/source` from a folder of photos: class folders, or split folders with class folders.

    Goes on where an interrupted run stopped. Equal input and settings give equal bytes, whatever the interruptions,
    the engine and its workers. Files that cannot be decoded are listed in `quarantine.jsonl`.

    Raises `DataError` when there is nothing to pack, the layout is unclear or photos change meanwhile,
    `SettingsError` when the folder was made from other photos or with other settings, or another process is at work on
    it; `OSError` for a full disk.
    """
    settings = settings or PackSettings()
    engine = engine or build_engine(settings.engine, settings.workers)
    _check_apart(source, data_dir)
    found = discover(source)
    planned, warnings = plan(found, settings)
    warnings = [*_layout_warnings(source, found, planned_splits(found, settings)), *warnings]
    plans = cut(planned, found.class_names, settings)
    folder = data_dir / SOURCE
    run = _run_of(folder, found, settings)
    # what grows with the number of photos is kept once: in the plans
    del planned
    found.files = ()
    make_folder(folder)
    with exclusive(data_dir / LOCK, "limla pack"):
        there = listing(folder)
        existing = _existing(folder, there, run.settings, progress)
        if existing:
            tidy(folder)
            progress.say(f"nothing to do: {folder} is complete")
            return _told(_result(existing, folder, made=False), progress)
        for warning in warnings:
            progress.say(f"warning: {warning}")
        missing = run.begin(plans, there, progress)
        work = PackShard(source.absolute(), absolute(folder), run.run_id, found.class_names, settings)
        try:
            _make(work, missing, progress, engine)
        finally:
            remove_unfinished(folder)
        manifest = _finish_or_find(source, run, found, plans, warnings, progress)
    for warning in manifest.summary["audit"]["warnings"][len(warnings) :]:
        progress.say(f"warning: {warning}")
    return _told(_result(manifest, folder, made=True), progress)


def _make(work: PackShard, plans: list[ShardPlan], progress: Progress, engine: Engine) -> None:
    if not plans:
        return
    num_photos = sum(len(plan.photos) for plan in plans)
    with progress.stage("packing", num_photos) as advance, closing(engine.map(work, plans, advance)) as names:
        for name in names:
            check_visible(part_path(work.folder / name))


def _told(result: PackResult, progress: Progress) -> PackResult:
    """Say whether every photo was packed: whoever calls `pack`, files are never left out in silence."""
    progress.say(f"found {result.found} = packed {result.packed} + quarantined {result.quarantined}")
    if result.quarantined:
        progress.say(f"quarantined, with reasons: {result.quarantine}")
    return result


def _check_apart(source: Path, data_dir: AnyPath) -> None:
    """Raise `SettingsError` when the shards would lie among the photos, or the photos among the shards."""
    if is_remote(data_dir):
        return
    photos, shards = source.resolve(), data_dir.resolve()
    if shards.is_relative_to(photos):
        raise SettingsError(f"{data_dir} lies inside {source}: choose an output folder outside the photos")
    if photos.is_relative_to(shards / SOURCE):
        raise SettingsError(
            f"{source} lies inside {data_dir / SOURCE}, where the shards go: choose another output"
        )
    if data_dir.exists() and not data_dir.is_dir():
        raise SettingsError(f"{data_dir} is a file: choose a folder for the shards")


def _layout_warnings(source: Path, found: Discovery, splits: tuple[str, ...]) -> list[str]:
    warnings: list[str] = []
    if found.layout == "split folders":
        missing = [split for split in SPLITS if split not in splits]
        if missing:
            remedy = "; --val-from-train 0.1 takes val from train" if missing == ["val"] else ""
            warnings.append(f"{source} is split already and has no {' and no '.join(missing)} folder{remedy}")
    if found.empty_classes:
        what = _count(len(found.empty_classes), "class folder")
        warnings.append(
            f"{what} without a picture left out: {_some(list(map(printable, found.empty_classes)))}"
        )
    if len(found.class_names) == 1:
        inner = ", ".join(map(printable, found.nested[:3]))
        hint = (
            f"; if {inner} … are the classes, pack {source / found.class_names[0]}"
            if len(found.nested) > 1
            else ""
        )
        warnings.append(f"there is one class only, '{found.class_names[0]}': nothing to tell apart{hint}")
    return warnings


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(names: list[str], separator: str = ", ") -> str:
    more = [f"and {len(names) - 5} more"] if len(names) > 5 else []
    return separator.join([*names[:5], *more])


def _run_of(folder: AnyPath, found: Discovery, settings: PackSettings) -> PackFolder:
    """The folder with everything that decides its bytes, the photos' names and sizes included."""
    as_given = found.layout == "split folders"
    files, dates = hashlib.sha256(), hashlib.sha256()
    for file in found.files:
        files.update(canonical_json([file.path, file.num_bytes]).encode() + b"\n")
        dates.update(canonical_json([file.path, file.num_bytes, file.mtime_ns]).encode() + b"\n")
    recorded = {
        "layout": found.layout,
        "seed": settings.seed,
        **{split: None if as_given else share for split, share in settings.fractions().items()},
        **({"val_from_train": settings.val_from_train} if settings.val_from_train else {}),
        "max_shard_bytes": settings.max_shard_bytes,
        "max_shard_samples": settings.max_shard_samples,
        "max_pixels": settings.max_pixels,
        "profiles": settings.profiles,
        "input_id": content_id([files.hexdigest(), sorted(found.stray)]),
    }
    return PackFolder(folder, recorded, dates.hexdigest(), library_versions(("numpy", "pillow", "simplejpeg")))


def _existing(
    folder: AnyPath, there: dict[str, int | None], recorded: dict[str, Any], progress: Progress
) -> Manifest | None:
    """The manifest of a complete earlier run with the same input and settings; None when there is work to do."""
    if FILE_NAME not in there:
        return None
    manifest = read_manifest(folder)
    if manifest.settings.get("input_id") != recorded["input_id"]:
        raise SettingsError(
            f"{folder} was packed from other photos (their names or sizes differ); "
            "choose another output folder, or remove this one"
        )
    check_settings(folder, manifest.settings, recorded)
    try:
        for split in manifest.splits():
            verify_shards(folder, manifest, split, contents=False)
            for shard in manifest.of_split(split):
                if index_path(folder / shard.name).name not in there:
                    raise DataError(f"{index_path(folder / shard.name)}: missing")
    except DataError as error:
        progress.say(f"warning: {error}; packing again")
        return None
    return manifest


class _Tally:
    """Gathers the parts, in the shards' order, into what the manifest and the tables hold."""

    def __init__(self, class_names: tuple[str, ...], stray: list[str]) -> None:
        self.entries: list[ShardEntry] = []
        self.refused = [Refused(path, "not inside a class folder") for path in stray]
        self.audit = Audit(class_names)
        self.packed: Counter[int] = Counter()

    def add(self, plan: ShardPlan, part: Part) -> Iterator[EncodingRow]:
        """Count one finished shard; gives its rows."""
        assert len(part.packed) + len(part.refused) == len(plan.photos), plan.name
        self.refused += part.refused
        if part.entry is None:
            return
        self.entries.append(part.entry)
        for picture in part.packed:
            photo = plan.photos[picture.number]
            self.audit.add(plan.split, photo.label, picture)
            self.packed[photo.label] += 1
            # what the original costs: a converted picture's PNG is our own choice, and several times as large
            cost, height, width = picture.source_num_bytes, picture.height, picture.width
            rate = rate_bpp(cost, height, width)
            yield EncodingRow(photo.key, plan.split, SOURCE, None, height, width, cost, rate)


def _finish_or_find(
    source: Path,
    run: PackFolder,
    found: Discovery,
    plans: list[ShardPlan],
    warnings: list[str],
    progress: Progress,
) -> Manifest:
    """Finish the folder; in a store, which has no locks, another run may have done so and cleared the parts away."""
    try:
        return _finish(source, run, found, plans, warnings)
    except FileNotFoundError:
        existing = _existing(run.folder, listing(run.folder), run.settings, progress)
        if existing is None:
            raise
        tidy(run.folder)
        return existing


def _finish(
    source: Path, run: PackFolder, found: Discovery, plans: list[ShardPlan], warnings: list[str]
) -> Manifest:
    """Turn the parts into the tables and the manifest. All shards must be finished."""
    folder = run.folder
    tally = _Tally(found.class_names, found.stray)
    with table_writer(folder / "encoding.parquet", ENCODING_SCHEMA) as writer:
        tars = [folder / one.name for one in plans]
        # a store is asked for several at a time; on a disk one after the other, so that one is in memory
        parts = in_parallel(read_part, tars) if is_remote(folder) else map(read_part, tars)
        for one, part in zip(plans, parts, strict=True):
            rows = list(tally.add(one, part))
            if rows:
                writer.write_table(encoding_table(rows))
                pa.default_memory_pool().release_unused()  # it would hold more and more
        write_quarantine(folder / QUARANTINE, tally.refused)
        num_packed = tally.packed.total()
        num_found = num_packed + len(tally.refused)
        if not num_packed:
            raise DataError(f"{source}: none of {num_found} pictures can be decoded; see {folder / QUARANTINE}")
    empty = [name for label, name in enumerate(found.class_names) if not tally.packed[label]]
    late = [f"class '{name}' has no picture that can be decoded" for name in empty]
    summary = tally.audit.summary()
    manifest = Manifest(
        dataset=(folder.parent if is_remote(folder) else folder.parent.resolve()).name,
        codec=SOURCE,
        quality=None,
        class_names=found.class_names,
        shards=tuple(tally.entries),
        settings=run.settings,
        versions=run.versions,
        summary={
            "found": num_found,
            "packed": num_packed,
            "quarantined": len(tally.refused),
            "skipped": found.skipped.total(),
            "skipped_reasons": dict(found.skipped),
            "audit": {**summary, "warnings": [*warnings, *late, *summary["warnings"]]},
        },
    )
    manifest.write(folder)
    tidy(folder)
    return manifest


def write_quarantine(path: AnyPath, refused: list[Refused]) -> None:
    """One {"path", "reason"} per line, sorted by path; an empty file when all is well."""
    lines = sorted(canonical_json({"path": printable(one.path), "reason": one.reason}) for one in refused)
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _result(manifest: Manifest, folder: AnyPath, made: bool) -> PackResult:
    summary = manifest.summary
    return PackResult(
        manifest=manifest,
        folder=folder,
        found=summary["found"],
        packed=summary["packed"],
        quarantined=summary["quarantined"],
        skipped=summary["skipped_reasons"],
        quarantine=folder / QUARANTINE,
        warnings=tuple(summary["audit"]["warnings"]),
        made=made,
    )
