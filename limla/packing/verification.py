"""Whether the variants of a dataset are what their manifests say."""

from __future__ import annotations

from dataclasses import dataclass

from limla.codecs.decoding import stored_weights
from limla.errors import DataError
from limla.manifest import FILE_NAME, Manifest, read_manifest, variant_names, verify_shard
from limla.paths import AnyPath, is_remote
from limla.progress import SILENT, Progress
from limla.results import read_table
from limla.shard_reader import read_index
from limla.shards import ShardEntry
from limla.storage import exists, in_parallel, listing


@dataclass(frozen=True)
class VariantReport:
    """What was checked, and one line per problem."""

    num_shards: int
    num_samples: int
    problems: tuple[str, ...]


def variant_folders(data_dir: AnyPath) -> list[AnyPath]:
    """The variant folders of a dataset, finished or not; `data_dir` itself when it is one.

    Raises `DataError` when there are none.
    """
    if exists(data_dir / FILE_NAME):
        return [data_dir]
    found = [data_dir / name for name in variant_names(data_dir)]
    if not found:
        raise DataError(f"{data_dir}: no shards there; name a dataset folder, made with 'limla pack'")
    return found


def verify_variant(folder: AnyPath, contents: bool = True, progress: Progress = SILENT) -> VariantReport:
    """Check one variant: manifest, every tar's presence, size and (with `contents`) SHA-256, index and row count.

    And the weights of a learned codec, likewise.
    """
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return VariantReport(0, 0, (str(error),))
    problems: list[str] = []
    with progress.stage(f"verifying {folder.name}", len(manifest.shards), "shards") as advance:
        there = listing(folder) if is_remote(folder) else None

        def check(shard: ShardEntry) -> list[str]:
            return _shard_problems(folder, shard, contents, there)

        # without contents it is mostly waiting for the store or the disk
        found = map(check, manifest.shards) if contents else in_parallel(check, manifest.shards)
        for some in found:
            problems += some
            advance(1)
    problems += _row_problems(folder, manifest) + _weights_problems(folder, manifest, contents)
    return VariantReport(len(manifest.shards), manifest.num_samples(), tuple(problems))


def _shard_problems(
    folder: AnyPath, shard: ShardEntry, contents: bool, there: dict[str, int | None] | None
) -> list[str]:
    try:
        verify_shard(folder, shard, contents, there)
        num_samples = len(read_index(folder / shard.name, shard.num_bytes))
    except DataError as error:
        return [str(error)]
    if num_samples != shard.num_samples:
        return [
            f"{folder / shard.name}: its index lists {num_samples} samples, the manifest {shard.num_samples}; "
            "remove the folder and make it again"
        ]
    return []


def _row_problems(folder: AnyPath, manifest: Manifest) -> list[str]:
    try:
        num_rows = read_table(folder / "encoding.parquet").num_rows
    except DataError as error:
        return [str(error)]
    if num_rows != manifest.num_samples():
        return [
            f"{folder / 'encoding.parquet'}: {num_rows} rows for {manifest.num_samples()} samples; make it again"
        ]
    return []


def _weights_problems(folder: AnyPath, manifest: Manifest, contents: bool) -> list[str]:
    """Of a learned codec, whose settings name the weights by their contents."""
    recorded = manifest.settings.get("weights")
    if recorded is None:
        return []
    try:
        stored_weights(manifest.codec, folder, recorded if contents else "")
    except DataError as error:
        return [str(error)]
    return []
