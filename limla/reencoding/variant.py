"""One output folder: what is finished in it, and the step that makes it complete.

An unfinished folder holds `settings.json`, written first, and for every finished shard
`<split>-<nnnnnn>.part.json`, written after its tar and index: its presence means they are whole. When all
parts are there they become `encoding.parquet`, then `manifest.json` appears and the parts go.
A finished folder that lost files becomes an unfinished one again, with the parts of the shards that are whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from limla.codecs.base import WEIGHTS
from limla.errors import DataError, SettingsError
from limla.files import TEMPORARY_SUFFIX, canonical_json, remove_unfinished, write_bytes, write_json
from limla.manifest import FILE_NAME, Manifest, check_settings, read_manifest, verify_shard
from limla.metrics import rate_bpp
from limla.paths import AnyPath, is_remote
from limla.results import ENCODING_SCHEMA, parquet_source, table_writer
from limla.shard_reader import read_index
from limla.shards import ShardEntry, index_path
from limla.storage import in_parallel, listing, make_folder, read_bytes, remove

SETTINGS = "settings.json"
ENCODING = "encoding.parquet"
PART_SUFFIX = ".part.json"
_GROUPS_BETWEEN_RELEASES = 8


class Cost(NamedTuple):
    """What one image costs at one quality: the part of an EncodingRow that its folder does not say.

    `psnr_db` and `ssim` are None where not measured; `ssim` also where the image is too small to have one.
    """

    key: str
    height: int
    width: int
    num_bytes: int
    psnr_db: float | None
    ssim: float | None


@dataclass(frozen=True)
class Variant:
    """One output folder.

    Attributes:
        folder: `<data_dir>/<codec>-q<quality>`.
        codec, quality: what it holds.
        settings: everything that decides its bytes; `settings["source"]` maps each split to its data id.
        versions: of the libraries that make the bytes.
        weights: of a learned codec, without which nobody reads the folder; None for others.
    """

    folder: AnyPath
    codec: str
    quality: int
    settings: dict[str, Any]
    versions: dict[str, str]
    weights: bytes | None = None

    def is_complete(self) -> bool:
        """Whether the folder is finished; checks that it was made, or begun, with these settings.

        Raises `SettingsError` naming the setting that differs.
        """
        there = listing(self.folder)
        if FILE_NAME in there:
            self._check(read_manifest(self.folder).settings)
            return True
        remove_unfinished(self.folder)
        if SETTINGS in there and any(name.endswith((".tar", PART_SUFFIX)) for name in there):
            begun = self._read_begun()
            self._check(begun["settings"])
            check_settings(self.folder, begun["versions"], self.versions)
        elif SETTINGS not in there and not all(name.endswith(TEMPORARY_SUFFIX) for name in there):
            raise SettingsError(
                f"{self.folder}: not empty, and not begun by limla; choose another data folder, or remove this one"
            )
        return False

    def damage(self) -> str:
        """What is missing or has another size than a finished folder's manifest says; "" when all is well.

        The weights of a learned codec, without which all the rest is lost, are compared byte by byte.
        """
        manifest = read_manifest(self.folder)
        whole = self._whole(manifest)
        damaged = [shard.name for shard in manifest.shards if shard.name not in whole]
        try:
            rows = pq.read_metadata(parquet_source(self.folder / ENCODING)).num_rows
        except (OSError, pa.ArrowException):
            rows = -1
        if not self._has_weights():
            damaged.append(WEIGHTS)
        if rows != manifest.num_samples():
            damaged.append(ENCODING)
        return ", ".join(damaged)

    def _has_weights(self) -> bool:
        try:
            return self.weights is None or read_bytes(self.folder / WEIGHTS) == self.weights
        except FileNotFoundError:
            return False

    def reopen(self) -> None:
        """Make a finished folder an unfinished one that lacks what is damaged, so that only that is made again.

        Raises `SettingsError` when other library versions made it, whose bytes may differ.
        """
        manifest = read_manifest(self.folder)
        check_settings(self.folder, manifest.versions, self.versions)
        write_json(self.folder / SETTINGS, {"settings": manifest.settings, "versions": manifest.versions})
        whole = self._whole(manifest)
        for shard, costs in zip(manifest.shards, self._costs(manifest), strict=True):
            tar = self.folder / shard.name
            if costs is not None and shard.name in whole:
                write_part(tar, shard, costs)
            else:
                remove([part_path(tar)])
        remove([self.folder / FILE_NAME])  # last: until here the folder is a finished one

    def _whole(self, manifest: Manifest) -> set[str]:
        """The shards whose tar has its size and whose index lists its samples."""
        there = listing(self.folder)

        def is_whole(shard: ShardEntry) -> bool:
            try:
                verify_shard(self.folder, shard, contents=False, there=there)
                return len(read_index(self.folder / shard.name, shard.num_bytes)) == shard.num_samples
            except DataError:
                return False

        found = zip(manifest.shards, in_parallel(is_whole, manifest.shards), strict=True)
        return {shard.name for shard, whole in found if whole}

    def _costs(self, manifest: Manifest) -> Iterator[list[Cost] | None]:
        """The rows of each shard in a finished folder's `encoding.parquet`; None where they cannot be read."""
        try:
            file = pq.ParquetFile(parquet_source(self.folder / ENCODING))
        except (OSError, pa.ArrowException):
            yield from (None for _ in manifest.shards)
            return
        with file:
            for number, shard in enumerate(manifest.shards):
                try:
                    rows = file.read_row_group(number, columns=list(Cost._fields)).to_pylist()
                except (OSError, IndexError, pa.ArrowException):
                    rows = []
                yield [Cost(**row) for row in rows] if len(rows) == shard.num_samples else None

    def _read_begun(self) -> dict[str, Any]:
        path = self.folder / SETTINGS
        try:
            begun = json.loads(read_bytes(path))
            return {"settings": begun["settings"], "versions": begun["versions"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: damaged ({error}); remove the folder {self.folder} and run this again"
            ) from error

    def _check(self, existing: dict[str, Any]) -> None:
        if existing.get("source") != self.settings["source"]:
            raise SettingsError(
                f"{self.folder} was made from other source shards than those in {self.folder.parent / 'source'} "
                "(packed again since?); remove it to re-encode these"
            )
        check_settings(self.folder, existing, self.settings)

    def begin(self) -> None:
        """Make the folder and leave in it what it is going to be."""
        make_folder(self.folder)
        write_json(self.folder / SETTINGS, {"settings": self.settings, "versions": self.versions})
        if self.weights is not None:
            write_bytes(self.folder / WEIGHTS, self.weights)

    def finished(self) -> set[str]:
        """The names of the shards that are finished here."""
        there = listing(self.folder)
        names = [f"{name.removesuffix(PART_SUFFIX)}.tar" for name in there if name.endswith(PART_SUFFIX)]

        def is_finished(name: str) -> bool:
            try:
                entry, _ = self._parse_part(name, self._part_bytes(name))
            except FileNotFoundError:  # in a store: a run that finished meanwhile removed it
                return False
            return there.get(name) == entry.num_bytes and index_path(Path(name)).name in there

        return {name for name, is_there in zip(names, in_parallel(is_finished, names), strict=True) if is_there}

    def finish(self, source: Manifest) -> None:
        """Turn the parts into `encoding.parquet` and the manifest. All shards must be finished.

        In a store, which has no locks, another run may have done so, and cleared the parts away, a moment ago.
        """
        try:
            self._finish(source)
        except FileNotFoundError:
            if not self.is_complete():
                raise
        self.tidy()

    def _finish(self, source: Manifest) -> None:
        entries: list[ShardEntry] = []
        summary = VariantSummary(self.folder.name, 0, 0, 0.0, 0)
        with table_writer(self.folder / ENCODING, ENCODING_SCHEMA) as writer:
            names = [shard.name for shard in source.shards]
            # only bytes are read ahead, and only from a store: the objects in memory are those of one part
            read = in_parallel if is_remote(self.folder) else map
            for name, data in zip(names, read(self._part_bytes, names), strict=True):
                entry, costs = self._parse_part(name, data)
                table = self._table(entry.split, costs)
                writer.write_table(table)
                entries.append(entry)
                if len(entries) % _GROUPS_BETWEEN_RELEASES == 0:
                    pa.default_memory_pool().release_unused()  # else this thread would hold more and more
                summary = summary.plus(table)
        Manifest(
            dataset=source.dataset,
            codec=self.codec,
            quality=self.quality,
            class_names=source.class_names,
            shards=tuple(entries),
            settings=self.settings,
            versions=self.versions,
            summary={name: value for name, value in asdict(summary).items() if name != "variant"},
        ).write(self.folder)

    def tidy(self) -> None:
        """Remove from a complete folder what only an unfinished one needs."""
        remove_unfinished(self.folder)
        left = [name for name in listing(self.folder) if name == SETTINGS or name.endswith(PART_SUFFIX)]
        remove([self.folder / name for name in left])

    def summary(self) -> VariantSummary:
        """The summary in a complete folder's manifest."""
        return VariantSummary(self.folder.name, **read_manifest(self.folder).summary)

    def _table(self, split: str, costs: list[Cost]) -> pa.Table:
        """The EncodingRows of one shard; built by columns, as one object per row costs ten times as much."""
        keys, heights, widths, sizes, psnrs, ssims = zip(*costs, strict=True) if costs else ((),) * 6
        columns = {
            "key": keys,
            "split": [split] * len(costs),
            "codec": [self.codec] * len(costs),
            "quality": [self.quality] * len(costs),
            "height": heights,
            "width": widths,
            "num_bytes": sizes,
            "rate_bpp": [rate_bpp(cost.num_bytes, cost.height, cost.width) for cost in costs],
            "psnr_db": psnrs,
            "ssim": ssims,
        }
        return pa.Table.from_pydict(columns, schema=ENCODING_SCHEMA)

    def _part_bytes(self, shard_name: str) -> bytes:
        return read_bytes(part_path(self.folder / shard_name))

    def _parse_part(self, shard_name: str, data: bytes) -> tuple[ShardEntry, list[Cost]]:
        path = part_path(self.folder / shard_name)
        try:
            part = json.loads(data)
            return ShardEntry(**part["shard"]), [Cost(*cost) for cost in part["costs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove it and run this again") from error


@dataclass(frozen=True)
class VariantSummary:
    """What a variant holds in all.

    Attributes:
        variant: folder name ("jpeg-q10").
        num_images: images.
        num_bytes: of the encoded images, headers included.
        mean_rate_bpp: mean over the images of their bits per pixel.
        num_measured: images with a PSNR.
    """

    variant: str
    num_images: int
    num_bytes: int
    mean_rate_bpp: float
    num_measured: int

    def plus(self, table: pa.Table) -> VariantSummary:
        """This summary with the EncodingRows of one more shard."""
        num_images = self.num_images + table.num_rows
        rates = table["rate_bpp"].to_pylist()
        return VariantSummary(
            self.variant,
            num_images,
            self.num_bytes + sum(table["num_bytes"].to_pylist()),
            math.fsum([self.mean_rate_bpp * self.num_images, *rates]) / num_images if num_images else 0.0,
            self.num_measured + table.num_rows - table["psnr_db"].null_count,
        )


def part_path(tar_path: AnyPath) -> AnyPath:
    """Where the record of a finished shard of an unfinished folder stands."""
    return tar_path.with_suffix(PART_SUFFIX)


def write_part(tar_path: AnyPath, entry: ShardEntry, costs: list[Cost]) -> None:
    """Say that a shard is finished; its tar and index must be on disk."""
    write_bytes(part_path(tar_path), canonical_json({"shard": asdict(entry), "costs": costs}).encode())
