"""The stage: what is there already, the work in order, the end."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limla.engines.local import usable_cores
from limla.errors import DataError, SettingsError
from limla.files import canonical_json, content_id, exclusive, remove_unfinished, write_bytes
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
from limla.packing.audit import Audit
from limla.packing.discovery import Discovery, discover, printable
from limla.packing.reading import Refused, prepare_all
from limla.packing.settings import PackSettings
from limla.packing.splitting import Planned, plan, planned_splits
from limla.packing.writing import ShardSeries
from limla.progress import SILENT, Progress
from limla.shards import index_path

LOCK = ".pack.lock"
QUARANTINE = "quarantine.jsonl"
_SHARD_FILE = re.compile(r"(train|val|test)-\d{6}\.(tar|idx)")


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
    folder: Path
    found: int
    packed: int
    quarantined: int
    skipped: dict[str, int]
    quarantine: Path
    warnings: tuple[str, ...]
    made: bool


def pack(
    source: Path, data_dir: Path, settings: PackSettings | None = None, progress: Progress = SILENT
) -> PackResult:
    """Write `<data_dir>/source` from a folder of photos: class folders, or split folders with class folders.

    Equal input and settings give equal bytes, whatever the number of threads or an interruption before; an
    interrupted run is done again. Files that cannot be decoded are listed in `quarantine.jsonl`.

    Raises `DataError` when there is nothing to pack or the layout is unclear, `SettingsError` when the folder was
    made from other photos or with other settings, or another process is at work on it; `OSError` for a full disk.
    """
    settings = settings or PackSettings()
    _check_apart(source, data_dir)
    found = discover(source)
    planned, warnings = plan(found, settings)
    warnings = [*_layout_warnings(source, found, planned_splits(found, settings)), *warnings]
    recorded = _recorded_settings(found, settings)
    folder = data_dir / SOURCE
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(data_dir / LOCK, "limla pack"):
        existing = _existing(folder, recorded, progress)
        if existing:
            progress.say(f"nothing to do: {folder} is complete")
            return _told(_result(existing, folder, made=False), progress)
        for warning in warnings:
            progress.say(f"warning: {warning}")
        (folder / FILE_NAME).unlink(missing_ok=True)
        remove_unfinished(folder)
        try:
            manifest = _write(source, folder, found, planned, settings, recorded, warnings, progress)
        finally:
            remove_unfinished(folder)
    for warning in manifest.summary["audit"]["warnings"][len(warnings) :]:
        progress.say(f"warning: {warning}")
    return _told(_result(manifest, folder, made=True), progress)


def _told(result: PackResult, progress: Progress) -> PackResult:
    """Say whether every photo was packed: whoever calls `pack`, files are never left out in silence."""
    progress.say(f"found {result.found} = packed {result.packed} + quarantined {result.quarantined}")
    if result.quarantined:
        progress.say(f"quarantined, with reasons: {result.quarantine}")
    return result


def _check_apart(source: Path, data_dir: Path) -> None:
    """Raise `SettingsError` when the shards would lie among the photos, or the photos among the shards."""
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
    if found.unreadable:
        what = _count(len(found.unreadable), "folder")
        warnings.append(
            f"{what} could not be read, photos in there are missing: {_some(found.unreadable, '; ')}"
        )
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


def _recorded_settings(found: Discovery, settings: PackSettings) -> dict[str, Any]:
    """Everything that decides the bytes, the photos' names and sizes included."""
    as_given = found.layout == "split folders"
    files = hashlib.sha256()
    for file in found.files:
        files.update(canonical_json([file.path, file.num_bytes]).encode() + b"\n")
    return {
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


def _existing(folder: Path, recorded: dict[str, Any], progress: Progress) -> Manifest | None:
    """The manifest of a complete earlier run with the same input and settings; None when there is work to do."""
    if not (folder / FILE_NAME).exists():
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
                if not index_path(folder / shard.name).exists():
                    raise DataError(f"{index_path(folder / shard.name)}: missing")
    except DataError as error:
        progress.say(f"warning: {error}; packing again")
        return None
    return manifest


def _write(
    source: Path,
    folder: Path,
    found: Discovery,
    planned: list[Planned],
    settings: PackSettings,
    recorded: dict[str, Any],
    warnings: list[str],
    progress: Progress,
) -> Manifest:
    audit = Audit(found.class_names)
    series = ShardSeries(folder, settings.max_shard_bytes, settings.max_shard_samples)
    refused = [Refused(path, "not inside a class folder") for path in found.stray]
    packed: Counter[int] = Counter()
    threads = settings.workers or usable_cores()
    with (
        progress.stage("packing", len(planned)) as advance,
        series,
        closing(prepare_all(source, planned, settings, threads)) as results,
    ):
        for one, result in zip(planned, results, strict=True):
            advance(1)
            if isinstance(result, Refused):
                refused.append(result)
                continue
            series.add(one, result, found.class_names[one.label])
            audit.add(one, result.picture, result.source_sha256)
            packed[one.label] += 1
    write_quarantine(folder / QUARANTINE, refused)
    num_found = len(planned) + len(found.stray)
    assert series.num_samples + len(refused) == num_found
    if not series.num_samples:
        raise DataError(f"{source}: none of {num_found} pictures can be decoded; see {folder / QUARANTINE}")
    series.write_encodings()
    _remove_stale(folder, {entry.name for entry in series.entries})
    empty = [name for label, name in enumerate(found.class_names) if not packed[label]]
    late = [f"class '{name}' has no picture that can be decoded" for name in empty]
    summary = audit.summary()
    manifest = Manifest(
        dataset=folder.parent.resolve().name,
        codec=SOURCE,
        quality=None,
        class_names=found.class_names,
        shards=tuple(series.entries),
        settings=recorded,
        versions=library_versions(("numpy", "pillow", "simplejpeg")),
        summary={
            "found": num_found,
            "packed": series.num_samples,
            "quarantined": len(refused),
            "skipped": found.skipped.total(),
            "skipped_reasons": dict(found.skipped),
            "unreadable_folders": found.unreadable,
            "audit": {**summary, "warnings": [*warnings, *late, *summary["warnings"]]},
        },
    )
    manifest.write(folder)
    return manifest


def write_quarantine(path: Path, refused: list[Refused]) -> None:
    """One {"path", "reason"} per line, sorted by path; an empty file when all is well."""
    lines = sorted(canonical_json({"path": printable(one.path), "reason": one.reason}) for one in refused)
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _remove_stale(folder: Path, names: set[str]) -> None:
    """Remove shards of an earlier, interrupted run that this one does not have."""
    kept = names | {index_path(Path(name)).name for name in names}
    for path in sorted(folder.iterdir()):
        if _SHARD_FILE.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _result(manifest: Manifest, folder: Path, made: bool) -> PackResult:
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
