"""The manifest of a shard folder: written last, its presence means the folder is complete.

Layout of a dataset: `<data_dir>/source/` holds the packed originals, `<data_dir>/<codec>-q<quality>/` one
re-encoding each. Such a folder is called a *variant*. Every variant holds `<split>-<nnnnnn>.tar`, the DALI
indexes, `encoding.parquet` (EncodingRows) and `manifest.json`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limla.cache import temporary_copy
from limla.errors import DataError, SettingsError
from limla.files import content_id, file_sha256, write_json
from limla.paths import AnyPath, is_remote
from limla.shards import ShardEntry, index_path
from limla.storage import exists, in_parallel, listing, read_bytes, stream

if TYPE_CHECKING:
    from upath import UPath

FORMAT = "limla-shards-1"
FILE_NAME = "manifest.json"
SOURCE = "source"
SPLITS = ("train", "val", "test")
_VARIANT = re.compile(r"(?P<codec>[a-z0-9]+(-[a-z0-9]+)*)-q(?P<quality>\d+)")


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

    def write(self, folder: AnyPath) -> None:
        """Write `manifest.json` into `folder`; do this last."""
        write_json(folder / FILE_NAME, {"format": FORMAT, **asdict(self)})


def read_manifest(folder: AnyPath) -> Manifest:
    """Read the manifest of a variant folder.

    Raises `DataError` when the folder or manifest is missing (an interrupted run) or is not a limla manifest.
    """
    path = folder / FILE_NAME
    text = _manifest_text(folder, path)
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        data["class_names"] = tuple(data["class_names"])
        data["shards"] = tuple(ShardEntry(**shard) for shard in data["shards"])
        return Manifest(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a limla manifest ({error}); remove the folder and make it again"
        ) from error


def _manifest_text(folder: AnyPath, path: AnyPath) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        if not exists(folder):
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


def list_variants(data_dir: AnyPath) -> list[str]:
    """The complete variants under a dataset folder: "source" first, then by codec and quality."""
    names = variant_names(data_dir)
    complete = in_parallel(exists, [data_dir / name / FILE_NAME for name in names])
    return [name for name, is_complete in zip(names, complete, strict=True) if is_complete]


def variant_names(data_dir: AnyPath) -> list[str]:
    """The variant folders under a dataset folder, finished or not, in the order of `list_variants`."""
    found: list[tuple[str, int, str]] = []
    for name, num_bytes in listing(data_dir).items():
        if num_bytes is None:
            try:
                codec, quality = parse_variant(name)
            except SettingsError:
                continue
            found.append(("" if codec == SOURCE else codec, quality or 0, name))
    return [name for _, _, name in sorted(found)]


def check_one_source(folders: Sequence[AnyPath], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Split → data id of the originals that all these variants of one dataset hold.

    A re-encoded variant says what it was made from (`settings["source"]`). That must be the packed originals
    beside it; where there are none, the variants must agree with each other. Otherwise an image could be in the
    train split of one variant and the test split of another.

    Raises `DataError` for the first variant made from another packing.
    """
    found: dict[str, str] | None = None
    against = folders[0]
    beside = folders[0].parent / SOURCE
    if exists(beside / FILE_NAME):
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


def _source_ids(folder: AnyPath, manifest: Manifest) -> dict[str, str]:
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


def verify_shards(folder: AnyPath, manifest: Manifest, split: str, contents: bool = True) -> None:
    """Check a split's tars against the manifest: present, of the recorded size, and of the recorded SHA-256.

    webdataset and DALI alone pass over some truncations without a word. `contents=False` checks presence and
    size only (for data lakes too large to hash). A file is hashed once per process unless it changes. In an object
    store presence and size are checked here, by one listing; the SHA-256 is, always, when a shard is fetched.

    Raises `DataError` naming the first file that is missing, truncated or altered.
    """
    shards = manifest.of_split(split)
    if is_remote(folder):
        check_sizes(folder, shards)
        return
    for shard in shards:
        verify_shard(folder, shard, contents)


def check_sizes(
    folder: AnyPath, shards: Sequence[ShardEntry], there: dict[str, int | None] | None = None
) -> None:
    """Check presence and size of tars, and presence of their indexes, by a listing of the folder (`there`).

    Raises `DataError` naming the first file that is missing or has another size.
    """
    if there is None:
        there = listing(folder)
    for shard in shards:
        num_bytes = there.get(shard.name)
        if num_bytes is None:
            raise DataError(
                f"{folder / shard.name}: missing, though the manifest lists it; remove the folder and make it again"
            )
        _check_size(folder / shard.name, num_bytes, shard)
        if there.get(index_path(Path(shard.name)).name) is None:
            path = index_path(folder / shard.name)
            raise DataError(f"{path}: missing; the folder is incomplete: make it again")


def _check_size(path: AnyPath, num_bytes: int, shard: ShardEntry) -> None:
    if num_bytes != shard.num_bytes:
        raise DataError(
            f"{path}: {num_bytes} bytes, but the manifest says {shard.num_bytes}: "
            "truncated or altered; remove the folder and make it again"
        )


def verify_shard(
    folder: AnyPath, shard: ShardEntry, contents: bool = True, there: dict[str, int | None] | None = None
) -> None:
    """Check one tar as `verify_shards` does; with `contents`, one in an object store is read through.

    `there` is a listing of the folder, when the caller has one: sizes are then taken from it.
    """
    path = folder / shard.name
    if is_remote(path):
        check_sizes(folder, [shard], there)
        if contents:
            _check_hash(path, _remote_sha256(path, shard.num_bytes), shard)
        return
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, though the manifest lists it; remove the folder and make it again"
        ) from error
    _check_size(path, status.st_size, shard)
    mark = (str(path.resolve()), status.st_size, status.st_mtime_ns, shard.sha256)
    if contents and mark not in _verified:
        _check_hash(path, file_sha256(path), shard)
        _verified.add(mark)


def _check_hash(path: AnyPath, sha256: str, shard: ShardEntry) -> None:
    if sha256 != shard.sha256:
        raise DataError(
            f"{path}: altered since it was made (its SHA-256 differs); remove the folder and make it again"
        )


def _remote_sha256(path: UPath, num_bytes: int) -> str:
    digest = hashlib.sha256()
    for piece in stream(path, num_bytes):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def local_shard(folder: AnyPath, shard: ShardEntry) -> Iterator[Path]:
    """A checked shard as a local file with its index beside it, for one reading: itself, or a copy that goes.

    Raises `DataError` when it is missing, truncated or altered.
    """
    path = folder / shard.name
    if is_remote(path):
        with temporary_copy(path, shard) as copy:
            yield copy
    else:
        verify_shard(folder, shard)
        yield path


def check_settings(folder: AnyPath, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
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
    """Versions of the named distributions, for a manifest or a results file; "" for one that is not installed.

    limla itself need not be: it also runs from a checkout on PYTHONPATH.
    """
    return {name: _version(name) for name in ("limla", *names)}


def cpu_model() -> str:
    """The name of the CPU, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
