"""A folder of codecs' files → the same tree of PNGs or TIFFs."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import PIL.Image

from limla.codecs.base import WEIGHTS, Learned, Prefix, Progressive
from limla.codecs.container import EXTENSION, read_container
from limla.codecs.decoding import decode_image
from limla.compressing.compress import COMMAND as COMPRESS
from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import DataError, MissingDependencyError, SettingsError
from limla.files import content_id
from limla.manifest import library_versions
from limla.pictures.files import read_regular
from limla.pictures.walking import printable, stem_and_suffix
from limla.progress import SILENT, Progress
from limla.registry import CODECS
from limla.trees import Row, TreeResult, convert_tree, find_sources
from limla.trees.folder import ResultFolder, record_names
from limla.trees.sources import check_apart
from limla.types import Image

COMMAND = "decompress"
_ALWAYS = ("jpg", "png", "bmp", "tif", "webp", EXTENSION)
"""Extensions that need no optional codec."""
PNG_LEVEL = 3


@dataclass(frozen=True)
class DecompressSettings:
    """How to decompress.

    Attributes:
        format: of the files made, "png" or "tiff" (deflate); both hold the pixels as they are.
        weights: the file of a learned codec's weights; None takes the copy in the folder that `compress` made.
    """

    format: Literal["png", "tiff"] = "png"
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.format not in ("png", "tiff"):
            raise SettingsError(f"format '{self.format}' is unknown: choose png or tiff")


@dataclass(frozen=True)
class _ToPixels:
    """Codecs' files → lossless pictures."""

    format: Literal["png", "tiff"]
    weights: bytes | None
    columns: ClassVar[Mapping[str, type]] = {"file": str, "height": int, "width": int, "note": str}

    def names(self, source: str, row: Row) -> tuple[str]:
        """One."""
        del row
        folder, slash, _ = source.rpartition("/")
        suffix = "png" if self.format == "png" else "tif"
        return (f"{folder}{slash}{stem_and_suffix(source)[0]}.{suffix}",)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Decode one file."""
        image, note = self._decode(data, stem_and_suffix(source)[1].lower().removeprefix("."))
        (name,) = self.names(source, {})
        write(name, write_pixels(image, self.format))
        return {"file": name, "height": image.shape[0], "width": image.shape[1], "note": note}

    def _decode(self, data: bytes, extension: str) -> tuple[Image, str]:
        if not data:
            raise DataError("empty file")
        if extension != EXTENSION:
            return decode_image(data, extension), ""
        contents = read_container(data)
        plug = CODECS.load(contents.codec) if contents.codec in CODECS.plugs else None
        if plug is not None and issubclass(plug, Learned):
            return _learned(plug, self.weights).decode(data), ""
        if plug is not None and issubclass(plug, Progressive) and not contents.is_whole:
            prefix: Prefix = plug().decode_prefix(data)
            return prefix.image, f"cut off, decoded at rank {prefix.held} of {prefix.whole}"
        return decode_image(data, extension), ""


def write_pixels(image: Image, file_format: str) -> bytes:
    """A PNG, or a TIFF with deflate, of an (H, W, 3) uint8 image."""
    stored = io.BytesIO()
    if file_format == "png":
        PIL.Image.fromarray(image).save(stored, "PNG", compress_level=PNG_LEVEL)
    else:
        PIL.Image.fromarray(image).save(stored, "TIFF", compression="tiff_adobe_deflate")
    return stored.getvalue()


@functools.lru_cache(maxsize=4)
def _learned(plug: Any, weights: bytes | None) -> Any:
    if weights is None:
        raise DataError(f"a file of the learned codec '{plug.name}': give its weights with --weights FILE")
    return plug.from_weights(weights)


def decompress(
    source: Path,
    folder: Path,
    settings: DecompressSettings | None = None,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> TreeResult:
    """Decode every file under `source` that a codec of the catalogue writes, or the one that it is, to `folder`.

    A damaged file is refused with its reason, the others are done. A file of a progressive codec that was cut off is
    decoded as far as it goes; its row, and `progress`, say so. See `limla.trees.stage.convert_tree` for what a second
    run does.

    Raises `DataError` where there is nothing to decode or names would clash, `SettingsError` for a folder that cannot
    take the results, `OSError` for a full disk.
    """
    settings = settings or DecompressSettings()
    check_apart(source, folder)
    own = {*record_names(COMPRESS), WEIGHTS}
    sources = find_sources(source, _suffixes(), "files of codecs", own)
    weights = _weights(source if source.is_dir() else source.parent, settings.weights)
    conversion = _ToPixels(settings.format, weights)
    recorded = {
        "format": settings.format,
        "weights": None if weights is None else content_id(weights.hex()),
    }
    names = ("numpy", "pillow", "simplejpeg", "av", "constriction")
    target = ResultFolder(folder, COMMAND, conversion, recorded, library_versions(names))
    title = f"decompressing to {settings.format.upper()}"
    result = convert_tree(
        sources, target, conversion, summary_of_pixels, progress, engine or build_engine("local"), title
    )
    for row in result.rows:
        if row["note"]:
            progress.say(f"{printable(str(row['source']))}: {row['note']}")
    return result


def _suffixes() -> frozenset[str]:
    """Of the files that the installed codecs write."""
    found = {f".{extension}" for extension in _ALWAYS}
    for name in CODECS.names():
        try:
            found.add(f".{CODECS.load(name).extension}")
        except MissingDependencyError:
            continue
    return frozenset(found)


def _weights(root: Path, given: Path | None) -> bytes | None:
    """The contents of the weights file, or of the copy that lies in the folder; None where there is none."""
    if given is not None:
        return read_regular(given)
    try:
        return read_regular(root / WEIGHTS)
    except FileNotFoundError:
        return None


def summary_of_pixels(rows: Sequence[Row]) -> dict[str, Any]:
    """Totals of the files that were decompressed."""
    return {
        "pictures": len(rows),
        "cut_off": sum(1 for row in rows if row["note"]),
        "source_num_bytes": sum(int(row["source_num_bytes"] or 0) for row in rows),
        "num_bytes": sum(int(row["num_bytes"] or 0) for row in rows),
    }
