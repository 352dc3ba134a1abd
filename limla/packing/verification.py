"""Whether the variants of a dataset are what their manifests say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limla.errors import DataError, SettingsError
from limla.manifest import FILE_NAME, Manifest, parse_variant, read_manifest, verify_shard
from limla.progress import SILENT, Progress
from limla.results import read_table
from limla.shards import ShardEntry, read_index


@dataclass(frozen=True)
class VariantReport:
    """What was checked, and one line per problem."""

    num_shards: int
    num_samples: int
    problems: tuple[str, ...]


def variant_folders(data_dir: Path) -> list[Path]:
    """The variant folders of a dataset, finished or not; `data_dir` itself when it is one.

    Raises `DataError` when there are none.
    """
    if (data_dir / FILE_NAME).exists():
        return [data_dir]
    found: list[Path] = []
    for path in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        try:
            parse_variant(path.name)
        except SettingsError:
            continue
        if path.is_dir():
            found.append(path)
    if not found:
        raise DataError(f"{data_dir}: no shards there; name a dataset folder, made with 'limla pack'")
    return found


def verify_variant(folder: Path, contents: bool = True, progress: Progress = SILENT) -> VariantReport:
    """Check one variant: manifest, every tar's presence, size and (with `contents`) SHA-256, index and row count."""
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return VariantReport(0, 0, (str(error),))
    problems: list[str] = []
    with progress.stage(f"verifying {folder.name}", len(manifest.shards), "shards") as advance:
        for shard in manifest.shards:
            problems += _shard_problems(folder, shard, contents)
            advance(1)
    problems += _row_problems(folder, manifest)
    return VariantReport(len(manifest.shards), manifest.num_samples(), tuple(problems))


def _shard_problems(folder: Path, shard: ShardEntry, contents: bool) -> list[str]:
    try:
        verify_shard(folder, shard, contents)
        num_samples = len(read_index(folder / shard.name))
    except DataError as error:
        return [str(error)]
    if num_samples != shard.num_samples:
        return [
            f"{folder / shard.name}: its index lists {num_samples} samples, the manifest {shard.num_samples}; "
            "make the folder again"
        ]
    return []


def _row_problems(folder: Path, manifest: Manifest) -> list[str]:
    try:
        num_rows = read_table(folder / "encoding.parquet").num_rows
    except DataError as error:
        return [str(error)]
    if num_rows != manifest.num_samples():
        return [
            f"{folder / 'encoding.parquet'}: {num_rows} rows for {manifest.num_samples()} samples; make it again"
        ]
    return []
