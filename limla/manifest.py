"""The manifest of a shard folder: written last, its presence means the folder is complete.

Layout of a dataset: `<data_dir>/source/` holds the packed originals, `<data_dir>/<codec>-q<quality>/` one
re-encoding each. Such a folder is called a *variant*. Every variant holds `<split>-<nnnnnn>.tar`, the DALI
indexes, `encoding.parquet` (EncodingRows) and `manifest.json`.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limla.errors import DataError, SettingsError
from limla.files import content_id, file_sha256, write_json
from limla.shards import ShardEntry

FORMAT = "limla-shards-1"
FILE_NAME = "manifest.json"
SOURCE = "source"
SPLITS = ("train", "val", "test")
_VARIANT = re.compile(r"(?P<codec>[a-z0-9]+)-q(?P<quality>\d+)")


def variant_name(codec: str, quality: int | None) -> str:
    """The folder name of a codec at a quality ("jpeg-q10"); "source" for the originals (quality None)."""
    return SOURCE if codec == SOURCE else f"{codec}-q{quality}"


def parse_variant(name: str) -> tuple[str, int | None]:
    """The (codec, quality) of a variant folder name; ("source", None) for the originals."""
    if name == SOURCE:
        return SOURCE, None
    match = _VARIANT.fullmatch(name)
    if match is None:
        raise SettingsError(f"'{name}' is not a variant folder: expected 'source' or '<codec>-q<quality>'")
    return match["codec"], int(match["quality"])


@dataclass(frozen=True)
class Manifest:
    """What a variant folder holds.

    Attributes:
        dataset: the dataset's name (name of the folder above).
        codec: "source" or a codec name.
        quality: the codec's quality; None for "source".
        class_names: index = class index; the same in all splits and variants of a dataset.
        shards: one entry per tar, by split and number.
        settings: everything that decides the bytes; a second run with others is refused.
        versions: library versions that made the bytes.
        summary: what the run found (for "source": found, packed, quarantined, the audit …).
    """

    dataset: str
    codec: str
    quality: int | None
    class_names: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    summary: dict[str, Any] = field(default_factory=dict)

    def of_split(self, split: str) -> tuple[ShardEntry, ...]:
        """The shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def num_samples(self, split: str | None = None) -> int:
        """Samples in one split, or in all."""
        return sum(shard.num_samples for shard in self.shards if split in (None, shard.split))

    def splits(self) -> tuple[str, ...]:
        """The splits that hold at least one sample, in the order train, val, test."""
        return tuple(split for split in SPLITS if self.num_samples(split))

    def data_id(self, split: str) -> str:
        """A content hash of one split: class names and the shards' SHA-256."""
        return content_id([self.class_names, [shard.sha256 for shard in self.of_split(split)]])

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`; do this last."""
        write_json(folder / FILE_NAME, {"format": FORMAT, **asdict(self)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a variant folder.

    Raises `DataError` when the folder or manifest is missing (an interrupted run) or is not a limla manifest.
    """
    path = folder / FILE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        data["class_names"] = tuple(data["class_names"])
        data["shards"] = tuple(ShardEntry(**shard) for shard in data["shards"])
        return Manifest(**data)
    except FileNotFoundError as error:
        if not folder.is_dir():
            siblings = list_variants(folder.parent)
            there = (
                f"; there: {', '.join(siblings)}"
                if siblings
                else "; make it with 'limla pack' or 'limla reencode'"
            )
            raise DataError(f"{folder}: no such shard folder{there}") from error
        raise DataError(
            f"{path}: missing, so the folder is unfinished: run the command that makes it again, "
            "or remove the folder first if that refuses it"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a limla manifest ({error}); make the folder again") from error


def list_variants(data_dir: Path) -> list[str]:
    """The complete variants under a dataset folder: "source" first, then by codec and quality."""
    found: list[tuple[str, int, str]] = []
    for path in data_dir.glob(f"*/{FILE_NAME}") if data_dir.is_dir() else ():
        try:
            codec, quality = parse_variant(path.parent.name)
        except SettingsError:
            continue
        found.append(("" if codec == SOURCE else codec, quality or 0, path.parent.name))
    return [name for _, _, name in sorted(found)]


def check_one_source(folders: Sequence[Path], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Split → data id of the originals that all these variants of one dataset hold.

    A re-encoded variant says what it was made from (`settings["source"]`). That must be the packed originals
    beside it; where there are none, the variants must agree with each other. Otherwise an image could be in the
    train split of one variant and the test split of another.

    Raises `DataError` for the first variant made from another packing.
    """
    found: dict[str, str] | None = None
    against = folders[0]
    beside = folders[0].parent / SOURCE
    if (beside / FILE_NAME).exists():
        found, against = _source_ids(beside, read_manifest(beside)), beside
    for folder, manifest in zip(folders, manifests, strict=True):
        ids = _source_ids(folder, manifest)
        if found is None:
            found = ids
        elif ids != found:
            raise DataError(
                f"{folder}: re-encoded from another packing than that of {against} (packed again since?), so its "
                f"splits may hold other images; remove it and make it again with 'limla reencode'"
            )
    assert found is not None
    return found


def _source_ids(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Split → data id of the originals a variant holds, for the splits with images."""
    if manifest.codec == SOURCE:
        return {split: manifest.data_id(split) for split in manifest.splits()}
    ids = manifest.settings.get("source")
    if not isinstance(ids, dict):
        raise DataError(
            f"{folder / FILE_NAME}: does not say which originals it was made from; remove the folder and make it "
            "again with 'limla reencode'"
        )
    return ids


_verified: set[tuple[str, int, int, str]] = set()


def verify_shards(folder: Path, manifest: Manifest, split: str, contents: bool = True) -> None:
    """Check a split's tars against the manifest: present, of the recorded size, and of the recorded SHA-256.

    webdataset and DALI alone pass over some truncations without a word. `contents=False` checks presence and
    size only (for data lakes too large to hash). A file is hashed once per process unless it changes.

    Raises `DataError` naming the first file that is missing, truncated or altered.
    """
    for shard in manifest.of_split(split):
        verify_shard(folder, shard, contents)


def verify_shard(folder: Path, shard: ShardEntry, contents: bool = True) -> None:
    """Check one tar as `verify_shards` does."""
    path = folder / shard.name
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing, though the manifest lists it; make the folder again") from error
    if status.st_size != shard.num_bytes:
        raise DataError(
            f"{path}: {status.st_size} bytes, but the manifest says {shard.num_bytes}: "
            "truncated or altered; make the folder again"
        )
    mark = (str(path.resolve()), status.st_size, status.st_mtime_ns, shard.sha256)
    if contents and mark not in _verified:
        if file_sha256(path) != shard.sha256:
            raise DataError(f"{path}: altered since it was made (its SHA-256 differs); make the folder again")
        _verified.add(mark)


def check_settings(folder: Path, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `SettingsError` naming each setting of an existing folder that differs from the wanted one."""
    different = [
        f"{name}: {existing.get(name)!r} there, {wanted.get(name)!r} asked for"
        for name in sorted(existing.keys() | wanted.keys())
        if existing.get(name) != wanted.get(name)
    ]
    if different:
        raise SettingsError(
            f"{folder} was made with other settings ({'; '.join(different)}); "
            "choose another output folder, or remove this one"
        )


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of the named distributions, for a manifest or a results file."""
    return {name: importlib.metadata.version(name) for name in ("limla", *names)}
