"""Shards → the familiar tree of loose files, for tools that want one: `q10/train/<class>/<name>.jpg`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limla.codecs.base import WEIGHTS
from limla.codecs.decoding import stored_weights
from limla.errors import DataError, SettingsError
from limla.files import remove_unfinished, write_bytes, write_json
from limla.manifest import SOURCE, Manifest, list_variants, local_shard, parse_variant, read_manifest
from limla.paths import AnyPath
from limla.progress import SILENT, Progress
from limla.shard_reader import Sample, ShardReader
from limla.shards import ShardEntry

MARK = "limla-export.json"
"""The file that says a folder is an export, and of which data: what makes going on in it safe."""


@dataclass(frozen=True)
class ExportResult:
    """How many images were written, and how many stood there already."""

    num_written: int
    num_there: int


def export(
    data_dir: AnyPath, folder: Path, variants: Sequence[str] | None = None, progress: Progress = SILENT
) -> ExportResult:
    """Write the images of `variants` ("source", "jpeg-q10"; None means all) as loose files under `folder`.

    `<folder>/<variant>/<split>/<class>/<name>.<extension>`, where the variant "jpeg-q10" is called "q10", the
    class folder is the class name (made safe where it is no file name), and the name is the last part of the
    sample key. The files are the shards' bytes. A second run writes what is missing. The weights of a learned codec
    go to `<folder>/<variant>`, where `limla decompress <folder>/<variant>` looks for them.

    Raises `DataError` for an unknown variant, damaged shards or weights, `SettingsError` when `folder` holds something
    else.
    """
    chosen = _choose(data_dir, variants)
    manifests = {name: read_manifest(data_dir / name) for name in chosen}
    _claim(folder, manifests)
    class_folders = safe_class_names(next(iter(manifests.values())).class_names)
    written = there = 0
    total = sum(manifest.num_samples() for manifest in manifests.values())
    with progress.stage("exporting", total) as advance:
        for variant, manifest in manifests.items():
            root = folder / folder_name(variant, chosen)
            if "weights" in manifest.settings:
                weights = stored_weights(manifest.codec, data_dir / variant, manifest.settings["weights"])
                _write_new(root / WEIGHTS, weights)
            for shard in manifest.shards:
                num_written = _export_shard(data_dir / variant, shard, root, class_folders, manifest)
                written += num_written
                there += shard.num_samples - num_written
                advance(shard.num_samples)
    return ExportResult(written, there)


def folder_name(variant: str, variants: Sequence[str]) -> str:
    """The exported name of a variant: "q10" for "jpeg-q10", unless several codecs are exported together."""
    codecs = {parse_variant(name)[0] for name in variants} - {SOURCE}
    _, quality = parse_variant(variant)
    return variant if quality is None or len(codecs) > 1 else f"q{quality}"


def safe_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class: the class name where it is a portable file name, else a slug with its index.

    Equal names, also equal but for case (some file systems take them for one), get the index too.
    """
    seen: set[str] = set()
    folders: list[str] = []
    for index, name in enumerate(class_names):
        slug = re.sub(r'[\x00-\x1f<>:"/\\|?*\x7f]', "_", name).strip(" .")
        # 255 bytes is the longest file name of the usual file systems
        if not slug or slug != name or len(name.encode()) > 200 or name.casefold() in seen:
            kept = slug.encode()[:180].decode(errors="ignore")
            slug = f"{index:04d}_{kept}" if kept else f"{index:04d}"
            while slug.casefold() in seen:
                slug += "_"
        seen.add(slug.casefold())
        folders.append(slug)
    return tuple(folders)


def _choose(data_dir: AnyPath, variants: Sequence[str] | None) -> list[str]:
    known = list_variants(data_dir)
    if not known:
        raise DataError(f"{data_dir}: no complete shard folder there; make one with 'limla pack'")
    if variants is None:
        return known
    for name in variants:
        if name not in known:
            raise DataError(f"{data_dir / name}: no complete shard folder; there: {', '.join(known)}")
    if not variants:
        raise SettingsError(f"no variant to export; there: {', '.join(known)}")
    return list(dict.fromkeys(variants))


def _claim(folder: Path, manifests: dict[str, Manifest]) -> None:
    """Make sure that `folder` is new, empty, or an export of the same data; leave the mark."""
    import json

    ids = {
        name: {split: manifest.data_id(split) for split in manifest.splits()}
        for name, manifest in manifests.items()
    }
    mark = folder / MARK
    existing: dict[str, dict[str, str]] = {}
    if mark.exists():
        try:
            existing = json.loads(mark.read_bytes())["variants"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{mark}: damaged ({error}); export to another folder") from error
        changed = [name for name in ids if existing.get(name, ids[name]) != ids[name]]
        if changed:
            raise SettingsError(
                f"{folder} holds an export of other shards ({', '.join(changed)} made again since?); "
                "export to another folder, or remove this one"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty and not an export of limla; export to another folder")
    if existing | ids != existing:
        write_json(mark, {"variants": existing | ids})


def _export_shard(
    source: AnyPath, shard: ShardEntry, root: Path, class_folders: Sequence[str], manifest: Manifest
) -> int:
    """Write the files of one shard that are not there yet; returns how many."""
    num_written = 0
    with local_shard(source, shard) as copy, ShardReader(source / shard.name, copy) as reader:
        for sample in reader:
            if not 0 <= sample.label < len(class_folders):
                raise DataError(
                    f"{reader.path}: sample '{sample.key}' is of class {sample.label}, "
                    f"but the manifest knows {len(manifest.class_names)} classes; remove the folder and make it again"
                )
            path = root / shard.split / class_folders[sample.label] / _file_name(sample)
            num_written += _write_new(path, bytes(sample.image))
    for folder in class_folders:
        remove_unfinished(root / shard.split / folder)
    return num_written


def _file_name(sample: Sample) -> str:
    return f"{sample.key.rsplit('/', 1)[-1]}.{sample.extension}"


def _write_new(path: Path, data: bytes) -> bool:
    """Write `data` unless the file holds it already; says whether it wrote."""
    try:
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
        raise SettingsError(f"{path} holds something else than the shards; remove it, or export elsewhere")
    except FileNotFoundError:
        write_bytes(path, data)
        return True
