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
from limla.codecs.decoding import decode_image, is_learned
from limla.compressing.compress import COMMAND as COMPRESS
from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import DataError, MissingDependencyError, SettingsError
from limla.manifest import library_versions
from limla.pictures.files import read_regular
from limla.pictures.walking import printable, stem_and_suffix
from limla.progress import SILENT, Progress
from limla.registry import CODECS
from limla.trees import Row, Sources, TreeResult, convert_tree, find_sources
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
        weights: the file of a learned codec's weights; None takes the copy that `compress` made: for each file the
            nearest, in its folder or above.
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
    weights: Mapping[str, bytes]
    """Folder below that of the sources → contents of the weights file for what lies in it and below; "" for all."""
    columns: ClassVar[Mapping[str, type]] = {"file": str, "height": int, "width": int, "note": str}

    def names(self, source: str, row: Row) -> tuple[str]:
        """One."""
        del row
        folder, slash, _ = source.rpartition("/")
        suffix = "png" if self.format == "png" else "tif"
        return (f"{folder}{slash}{stem_and_suffix(source)[0]}.{suffix}",)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Decode one file."""
        image, note = self._decode(source, data)
        (name,) = self.names(source, {})
        write(name, write_pixels(image, self.format))
        return {"file": name, "height": image.shape[0], "width": image.shape[1], "note": note}

    def _decode(self, source: str, data: bytes) -> tuple[Image, str]:
        extension = stem_and_suffix(source)[1].lower().removeprefix(".")
        if not data:
            raise DataError("empty file")
        if extension != EXTENSION:
            return decode_image(data, extension), ""
        contents = read_container(data)
        plug = CODECS.load(contents.codec) if contents.codec in CODECS.plugs else None
        if plug is not None and issubclass(plug, Learned):
            return _learned(plug, self._weights_of(source)).decode(data), ""
        if plug is not None and issubclass(plug, Progressive) and not contents.is_whole:
            prefix: Prefix = plug().decode_prefix(data)
            return prefix.image, f"cut off, decoded at rank {prefix.held} of {prefix.whole}"
        return decode_image(data, extension), ""

    def _weights_of(self, source: str) -> bytes | None:
        folder = source
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self.weights:
                return self.weights[folder]
        return None


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
        raise DataError(
            f"a file of the learned codec '{plug.name}', and no {WEIGHTS} in its folder or above: "
            "give its weights with --weights FILE"
        )
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
    conversion = _ToPixels(settings.format, _weights(sources, settings.weights))
    # which weights are there decides what can be decoded, not the pixels: a file names its own by their contents
    recorded = {"format": settings.format}
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


def _weights(sources: Sources, given: Path | None) -> dict[str, bytes]:
    """Folder → contents of the weights file that lies in it, "" being the folder of sources or one above it."""
    if given is not None:
        data = read_regular(given)
        _check_weights(given, data)
        return {"": data}
    assert sources.root is not None
    folders = {""}
    for folder in {source.path.rpartition("/")[0] for source in sources.files}:
        above = folder
        while above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
    places = {folder: sources.root / folder / WEIGHTS for folder in folders}
    above_root = (folder / WEIGHTS for folder in sources.root.absolute().parents)
    if not places[""].is_file():
        places[""] = next((path for path in above_root if path.is_file()), places[""])
    return {folder: read_regular(path) for folder, path in places.items() if path.is_file()}


def _check_weights(path: Path, data: bytes) -> None:
    """Raise `DataError` naming a file that no learned codec can read: once, not for every picture."""
    reasons: list[str] = []
    for name in CODECS.names():
        if not is_learned(name):
            continue
        try:
            _learned(CODECS.load(name), data)
        except DataError as error:
            reasons.append(str(error))
        else:
            return
    raise DataError(f"{path}: {'; '.join(reasons)}")


def summary_of_pixels(rows: Sequence[Row]) -> dict[str, Any]:
    """Totals of the files that were decompressed."""
    return {
        "pictures": len(rows),
        "cut_off": sum(1 for row in rows if row["note"]),
        "source_num_bytes": sum(int(row["source_num_bytes"] or 0) for row in rows),
        "num_bytes": sum(int(row["num_bytes"] or 0) for row in rows),
    }
