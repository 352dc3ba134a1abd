"""A folder of pictures ↔ one file of a learned codec's binary codes, for use as arrays (`limla.codecs.code_arrays`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.codecs import build_codec
from limla.codecs.autoencoder_network import is_gray
from limla.codecs.base import MAX_PIXELS, BinaryCodes
from limla.codecs.code_arrays import CodeArrays
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

SUFFIX = ".npz"
_CODEC = "autoencoder"


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


class _Coded(NamedTuple):
    """One picture's codes, packed 8 to a byte, and the shape that they have unpacked."""

    key: str
    packed: npt.NDArray[np.uint8]
    shape: tuple[int, ...]
    height: int
    width: int
    gray: bool

    def codes(self) -> npt.NDArray[np.uint8]:
        return np.unpackbits(self.packed, count=int(np.prod(self.shape))).reshape(self.shape)


@dataclass(frozen=True)
class _ToCodes:
    """Pictures → codes; picklable, the unit of work."""

    root: Path
    codec: Any
    quality: int

    def __call__(self, sources: tuple[Source, ...], share: Share) -> list[_Coded | Refused]:
        found: list[_Coded | Refused] = []
        with pillow_silenced(), closing(share.spread(self._encode, sources)) as results:
            for result in results:
                found.append(result)
                share.advance(1)
        return found

    def _encode(self, source: Source) -> _Coded | Refused:
        try:
            data = read_source(self.root, source)
            with pixels_in_turn(data, MAX_PIXELS, convert_profiles=True) as image:
                codes = self.codec.codes(image, self.quality)
                height, width = image.shape[:2]
                gray = is_gray(image)
        except LimlaError as error:
            return Refused(source.path, " ".join(str(error).split()))
        folder, slash, _ = source.path.rpartition("/")
        key = f"{folder}{slash}{stem_and_suffix(source.path)[0]}"
        return _Coded(key, np.packbits(codes), codes.shape, height, width, gray)


def compress_to_codes(
    source: Path,
    file: Path,
    settings: CompressSettings,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> CodesResult:
    """Write the codes of every picture under `source` to one `file`, keys being the paths without their suffix.

    The codes of the whole folder are in memory, packed. A file that is there is left as it is.

    Raises `SettingsError` for a codec without codes and a `file` with other contents, `DataError` where no picture can
    be read.
    """
    codec = build_codec(settings.codec)
    if not isinstance(codec, BinaryCodes):
        raise SettingsError(
            f"{file}: codec '{settings.codec}' has no codes to write as arrays; name a folder, or codec '{_CODEC}' "
            "with a quality"
        )
    sources = find_sources(source, PICTURE_SUFFIXES, "pictures")
    assert sources.root is not None
    arrays = CodeArrays.begin(codec, settings.quality)
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
                arrays.add(result.key, result.codes(), result.height, result.width, result.gray)
                pixels += result.height * result.width
    quarantine = file.with_name(f"{file.name}.quarantine.jsonl")
    if refused:
        lines = [canonical_json({"path": printable(one.path), "reason": one.reason}) for one in refused]
        write_bytes(quarantine, "".join(f"{line}\n" for line in lines).encode())
    if not len(arrays):
        raise DataError(f"{source}: none of {len(sources.files)} pictures can be read; reasons: {quarantine}")
    data = arrays.to_bytes()
    if not file.exists():
        write_bytes(file, data)
    elif file.read_bytes() != data:
        raise SettingsError(
            f"{file} is there and holds something else: choose another file, or remove this one"
        )
    return CodesResult(
        len(arrays),
        sum(one.num_bytes for one in sources.files),
        len(data),
        rate_bpp(len(data), pixels, 1),
        tuple(refused),
        sources.skipped,
        quarantine,
    )


@dataclass(frozen=True)
class _FromCodes:
    """Codes → lossless pictures."""

    codec: Any
    format: str
    images: Mapping[str, _Coded]
    columns: ClassVar[Mapping[str, type]] = {"file": str, "height": int, "width": int, "note": str}

    def names(self, source: str, row: Row) -> tuple[str]:
        """One."""
        del row
        return (f"{source}.{'png' if self.format == 'png' else 'tif'}",)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Decode one picture's codes."""
        del data
        coded = self.images[source]
        image = self.codec.from_codes(coded.codes(), coded.height, coded.width, coded.gray)
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
    images: dict[str, _Coded] = {}
    for key, codes, height, width, gray in arrays:
        _check_key(file, key)
        if key in images:
            raise DataError(f"{file}: '{printable(key)}' is in it twice")
        images[key] = _Coded(key, np.packbits(codes), codes.shape, height, width, gray)
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


def _check_key(file: Path, key: str) -> None:
    """Raise `DataError` for a key that would lead out of the folder."""
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or str(path) != key or "\0" in key:
        raise DataError(f"{file}: '{printable(key)}' is no path below a folder")
