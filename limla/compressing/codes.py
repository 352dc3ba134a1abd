"""A folder of pictures ↔ one file of a learned codec's binary codes, for use as arrays (`limla.codecs.code_arrays`)."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from limla.codecs import build_codec
from limla.codecs.autoencoder_network import is_gray
from limla.codecs.base import MAX_PIXELS, BinaryCodes
from limla.codecs.code_arrays import CodeArrays, CodedImage
from limla.compressing.compress import CompressSettings
from limla.compressing.decompress import COMMAND, DecompressSettings, summary_of_pixels, write_pixels
from limla.engines import build_engine
from limla.engines.base import Engine, Share
from limla.errors import DataError, LimlaError, SettingsError
from limla.files import canonical_json, write_bytes
from limla.manifest import library_versions
from limla.metrics import rate_bpp
from limla.pictures.files import pillow_silenced, read_regular
from limla.pictures.policies import pixels_in_turn
from limla.pictures.walking import PICTURE_SUFFIXES, printable, stem_and_suffix
from limla.progress import SILENT, Progress
from limla.registry import CODECS
from limla.trees import Refused, Row, Source, Sources, TreeResult, convert_tree, find_sources
from limla.trees.conversion import read_source
from limla.trees.folder import ResultFolder
from limla.trees.stage import check_none_refused, units_of

_CODEC = "autoencoder"
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, lone surrogates, separators of lines and paragraphs."""


@dataclass(frozen=True)
class CodesResult:
    """What one file of codes holds.

    Attributes:
        num_pictures: in the file.
        source_num_bytes, num_bytes: of the picture files, and of the file of codes.
        rate_bpp: bits of the whole file for each pixel of all pictures.
        refused: pictures that could not be read.
        skipped: reason → number of entries that are no pictures.
        quarantine: the list of the refused; there only where some were.
    """

    num_pictures: int
    source_num_bytes: int
    num_bytes: int
    rate_bpp: float
    refused: tuple[Refused, ...]
    skipped: Counter[str]
    quarantine: Path

    def check_whole(self) -> None:
        """Raise `DataError` where pictures were refused, for an exit code that tells."""
        check_none_refused(self.refused, self.num_pictures, self.quarantine)


@dataclass(frozen=True)
class _ToCodes:
    """Pictures → codes; picklable, the unit of work."""

    root: Path
    codec: BinaryCodes
    quality: int

    def __call__(self, sources: tuple[Source, ...], share: Share) -> list[CodedImage | Refused]:
        found: list[CodedImage | Refused] = []
        with pillow_silenced(), closing(share.spread(self._encode, sources)) as results:
            for result in results:
                found.append(result)
                share.advance(1)
        return found

    def _encode(self, source: Source) -> CodedImage | Refused:
        key = _key(source)
        if not _can_name_a_file(key):
            return Refused(source.path, "its name cannot be shown as one line of text, nor be a key: rename it")
        try:
            data = read_source(self.root, source)
            with pixels_in_turn(data, MAX_PIXELS, convert_profiles=True) as image:
                codes = self.codec.codes(image, self.quality)
                return CodedImage.of(key, codes, image.shape[0], image.shape[1], is_gray(image))
        except LimlaError as error:
            return Refused(source.path, " ".join(str(error).split()))


def _key(source: Source) -> str:
    folder, slash, _ = source.path.rpartition("/")
    return f"{folder}{slash}{stem_and_suffix(source.path)[0]}"


def compress_to_codes(
    source: Path,
    file: Path,
    settings: CompressSettings,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> CodesResult:
    """Write the codes of every picture under `source` to one `file`, keys being the paths without their suffix.

    The codes of the whole folder are in memory, packed. A file that is there is left as it is.

    Raises `SettingsError` for a codec without codes, a PSNR to be measured, and a `file` with other contents, before
    anything is coded where its keys, weights or quality tell; `DataError` where no picture can be read.
    """
    if settings.measure:
        raise SettingsError(
            f"{file}: no PSNR is measured of arrays of codes: leave out --measure, or name a folder"
        )
    codec = build_codec(settings.codec)
    if not isinstance(codec, BinaryCodes):
        raise SettingsError(
            f"{file}: codec '{settings.codec}' has no codes to write as arrays; name a folder, or codec '{_CODEC}' "
            "with a quality"
        )
    sources = find_sources(source, PICTURE_SUFFIXES, "pictures")
    assert sources.root is not None
    arrays = CodeArrays.begin(codec, settings.quality)
    quarantine = file.with_name(f"{file.name}.quarantine.jsonl")
    _check_place(file, arrays, sources, quarantine)
    engine = engine or build_engine("local")
    work = _ToCodes(sources.root.absolute(), codec, settings.quality)
    refused: list[Refused] = []
    pixels = 0
    with (
        progress.stage(f"coding with {codec.name} {settings.quality}", len(sources.files)) as advance,
        closing(engine.map(work, units_of(sources.files), advance)) as results,
    ):
        for result in (one for unit in results for one in unit):
            if isinstance(result, Refused):
                refused.append(result)
                progress.say(f"{printable(result.path)}: {result.reason}")
            else:
                arrays.add(result)
                pixels += result.height * result.width
    data = arrays.to_bytes() if len(arrays) else b""
    if data and file.exists() and file.read_bytes() != data:
        raise _other_contents(file, "other pictures")
    _record(refused, quarantine)
    if not data:
        raise DataError(f"{source}: none of {len(sources.files)} pictures can be read; reasons: {quarantine}")
    if not file.exists():
        write_bytes(file, data)
    return CodesResult(
        len(arrays),
        sum(one.num_bytes for one in sources.files),
        len(data),
        rate_bpp(len(data), pixels, 1),
        tuple(refused),
        sources.skipped,
        quarantine,
    )


def _check_place(file: Path, wanted: CodeArrays, sources: Sources, quarantine: Path) -> None:
    """Raise `SettingsError` where `file` cannot be written, or is there and can be seen to hold something else."""
    if file.is_dir():
        raise SettingsError(f"{file} is a folder: choose another name for the file of codes")
    above = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise SettingsError(f"{above} is a file: choose another folder for {file.name}")
    if not file.exists():
        return
    try:
        there = CodeArrays.read(file)
    except DataError as error:
        raise _other_contents(file, "no file of codes that this version writes") from error
    refused = _refused_before(quarantine)
    keys = sorted(_key(source) for source in sources.files if printable(source.path) not in refused)
    for what, has, needs in (
        ("weights", there.weights, wanted.weights),
        ("quality", there.quality, wanted.quality),
        ("bits", there.bits, wanted.bits),
        ("keys", sorted(image.key for image in there), keys),
    ):
        if has != needs:
            raise _other_contents(file, f"other {what}")


def _record(refused: list[Refused], quarantine: Path) -> None:
    if not refused:
        quarantine.unlink(missing_ok=True)  # an earlier run's
        return
    lines = [canonical_json({"path": printable(one.path), "reason": one.reason}) for one in refused]
    write_bytes(quarantine, "".join(f"{line}\n" for line in lines).encode())


def _other_contents(file: Path, what: str) -> SettingsError:
    return SettingsError(
        f"{file} is there and holds something else ({what}): choose another file, or remove this one"
    )


def _refused_before(quarantine: Path) -> set[str]:
    try:
        return {json.loads(line)["path"] for line in quarantine.read_bytes().splitlines()}
    except FileNotFoundError:
        return set()
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{quarantine}: not a list of limla's; move it away") from error


@dataclass(frozen=True)
class _FromCodes:
    """Codes → lossless pictures."""

    codec: BinaryCodes
    format: str
    images: Mapping[str, CodedImage]
    columns: ClassVar[Mapping[str, type]] = {"file": str, "height": int, "width": int, "note": str}

    def names(self, source: str, row: Row) -> tuple[str]:
        """One."""
        del row
        return (f"{source}.{'png' if self.format == 'png' else 'tif'}",)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Decode one picture's codes."""
        del data
        coded = self.images[source]
        image = self.codec.from_codes(coded.codes, coded.height, coded.width, coded.gray)
        (name,) = self.names(source, {})
        write(name, write_pixels(image, self.format))
        return {"file": name, "height": coded.height, "width": coded.width, "note": ""}


def decompress_codes(
    file: Path,
    folder: Path,
    settings: DecompressSettings,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> TreeResult:
    """Decode a file of codes to `folder`, `<key>.png` each; see `limla.compressing.decompress`.

    Raises `SettingsError` without weights, `DataError` for a damaged file, other weights, and keys that are no paths
    below a folder.
    """
    if settings.weights is None:
        raise SettingsError(f"{file}: give the weights that made the codes with --weights FILE")
    data = read_regular(file)
    try:
        arrays = CodeArrays.from_bytes(data)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    codec: Any = CODECS.load(_CODEC).from_weights(read_regular(settings.weights))
    arrays.check_codec(codec)
    images: dict[str, CodedImage] = {}
    for image in arrays:
        _check_key(file, image.key)
        if image.key in images:
            raise DataError(f"{file}: {image.key!a} is in it twice")
        images[image.key] = image
    if not images:
        raise DataError(f"{file}: no codes in it")
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file: choose a folder for the results")
    conversion = _FromCodes(codec, settings.format, images)
    recorded = {"format": settings.format, "codes_sha256": hashlib.sha256(data).hexdigest()}
    versions = library_versions(("numpy", "pillow", "constriction"))
    target = ResultFolder(folder, COMMAND, conversion, recorded, versions)
    sources = Sources(None, tuple(Source(key, 0, 0) for key in sorted(images)))
    return convert_tree(
        sources,
        target,
        conversion,
        lambda rows: {**summary_of_pixels(rows), "source_num_bytes": len(data)},
        progress,
        engine or build_engine("local"),
        f"decoding codes to {settings.format.upper()}",
    )


def _can_name_a_file(key: str) -> bool:
    """Whether it is one line of valid Unicode."""
    return not any(unicodedata.category(letter) in _NO_TEXT for letter in key)


def _check_key(file: Path, key: str) -> None:
    """Raise `DataError` for a key that would lead out of the folder, or is no line of text."""
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or str(path) != key or not _can_name_a_file(key):
        raise DataError(f"{file}: {key!a} is no path below a folder")
