"""Tiling: large pictures → a grid of square tiles each, as PNG, class folders kept (docs/files.md)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import PIL.Image

from limla.codecs.base import MAX_PIXELS
from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import SettingsError
from limla.manifest import library_versions
from limla.pictures.policies import MAX_SIDE, PNG_LEVEL, pixels_in_turn
from limla.pictures.walking import PICTURE_SUFFIXES, stem_and_suffix
from limla.progress import SILENT, Progress
from limla.trees import Row, TreeResult, convert_tree, find_sources
from limla.trees.folder import ResultFolder
from limla.trees.sources import check_apart
from limla.types import Image

COMMAND = "tile"
_LONGEST_TILE = min(MAX_SIDE, math.isqrt(MAX_PIXELS))


@dataclass(frozen=True)
class TileSettings:
    """How to cut; checked when it is made.

    Attributes:
        tile: side of a tile in pixels, 1 to 13377: a tile has at most `MAX_PIXELS` pixels, too.
        border: of what is left at the right and below when no whole tile fits: "drop" leaves it out, "pad" fills the
            tile with the picture mirrored at its last pixel, which is not repeated.
        overlap: pixels that neighbouring tiles share, less than `tile`.
    """

    tile: int = 128
    border: Literal["drop", "pad"] = "drop"
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.tile <= _LONGEST_TILE:
            raise SettingsError(
                f"a tile of {self.tile} × {self.tile} pixels: choose 1 to {_LONGEST_TILE}, at most {MAX_PIXELS} pixels"
            )
        if self.border not in ("drop", "pad"):
            raise SettingsError(f"border '{self.border}' is unknown: choose drop or pad")
        if not 0 <= self.overlap < self.tile:
            raise SettingsError(
                f"an overlap of {self.overlap} pixels: choose 0 to {self.tile - 1}, less than the tile"
            )

    def count(self, side: int) -> int:
        """Tiles along a side of so many pixels."""
        step = self.tile - self.overlap
        if self.border == "drop":
            return (side - self.tile) // step + 1 if side >= self.tile else 0
        return -(-max(side - self.tile, 0) // step) + 1

    def covered(self, side: int) -> int:
        """Pixels from the first tile's beginning to the last one's end, along a side of so many."""
        count = self.count(side)
        return (count - 1) * (self.tile - self.overlap) + self.tile if count else 0


def mirrored(start: int, length: int, side: int) -> npt.NDArray[np.intp]:
    """The places start … start + length - 1 of a line of `side` pixels, mirrored at its ends again and again."""
    period = max(2 * (side - 1), 1)
    places = np.arange(start, start + length) % period
    return np.where(places < side, places, period - places)


@dataclass(frozen=True)
class _ToTiles:
    """Pictures → tiles."""

    settings: TileSettings
    columns: ClassVar[Mapping[str, type]] = {
        "height": int,
        "width": int,
        "tile_rows": int,
        "tile_columns": int,
        "dropped_pixels": int,
        "padded_pixels": int,
    }

    def names(self, source: str, row: Row) -> Iterator[str]:
        """Row by row: `<name>_r003_c005.png`."""
        if not row:
            yield _name(source, 0, 0)
            return
        for tile_row in range(int(row["tile_rows"] or 0)):
            for tile_column in range(int(row["tile_columns"] or 0)):
                yield _name(source, tile_row, tile_column)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Cut one picture."""
        more = (
            self.settings.tile**2 if self.settings.border == "pad" else 0
        )  # else a tile is a part of the picture
        with pixels_in_turn(data, MAX_PIXELS, convert_profiles=True, more_pixels=more) as image:
            height, width = image.shape[:2]
            tile_rows, tile_columns = self.settings.count(height), self.settings.count(width)
            if not tile_rows * tile_columns:
                tile_rows = tile_columns = 0
            for row, column, pixels in self._tiles(image, tile_rows, tile_columns):
                stored = io.BytesIO()
                PIL.Image.fromarray(pixels).save(stored, "PNG", compress_level=PNG_LEVEL)
                write(_name(source, row, column), stored.getvalue())
        inside, covered = 0, 0
        if tile_rows:
            high, wide = self.settings.covered(height), self.settings.covered(width)
            inside, covered = min(high, height) * min(wide, width), high * wide
        return {
            "height": height,
            "width": width,
            "tile_rows": tile_rows,
            "tile_columns": tile_columns,
            "dropped_pixels": height * width - inside,
            "padded_pixels": covered - inside,
        }

    def _tiles(self, image: Image, rows: int, columns: int) -> Iterator[tuple[int, int, Image]]:
        """(row, column, pixels), row by row."""
        height, width = image.shape[:2]
        tile, step = self.settings.tile, self.settings.tile - self.settings.overlap
        for row in range(rows):
            for column in range(columns):
                top, left = row * step, column * step
                if top + tile <= height and left + tile <= width:
                    yield row, column, image[top : top + tile, left : left + tile]
                else:
                    yield row, column, image[np.ix_(mirrored(top, tile, height), mirrored(left, tile, width))]


def _name(source: str, row: int, column: int) -> str:
    folder, slash, _ = source.rpartition("/")
    return f"{folder}{slash}{stem_and_suffix(source)[0]}_r{row:03d}_c{column:03d}.png"


def tile_pictures(
    source: Path,
    folder: Path,
    settings: TileSettings,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> TreeResult:
    """Cut every picture under `source`, or the one that it is, into tiles in `folder`, with the same folders.

    Pictures become upright 8-bit sRGB first, by the policies of packing. A whole picture is in memory, in two copies
    while it is read; pictures and padded tiles have at most `MAX_PIXELS` pixels at once in a process
    (`pixels_in_turn`). See
    `limla.trees.stage.convert_tree` for what a second run does.

    Raises `DataError` where there is nothing to cut or names would clash, `SettingsError` for a folder that cannot
    take the results, `OSError` for a full disk.
    """
    check_apart(source, folder)
    sources = find_sources(source, PICTURE_SUFFIXES, "pictures")
    conversion = _ToTiles(settings)
    recorded = {"tile": settings.tile, "border": settings.border, "overlap": settings.overlap}
    versions = library_versions(("numpy", "pillow", "simplejpeg"))
    target = ResultFolder(folder, COMMAND, conversion, recorded, versions)
    title = f"cutting tiles of {settings.tile} × {settings.tile}"
    return convert_tree(sources, target, conversion, _summary, progress, engine or build_engine("local"), title)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Totals of the pictures that were cut."""

    def total(name: str) -> int:
        return sum(int(row[name] or 0) for row in rows)

    return {
        "pictures": len(rows),
        "too_small": sum(1 for row in rows if not row["tile_rows"]),
        "tiles": sum(int(row["tile_rows"] or 0) * int(row["tile_columns"] or 0) for row in rows),
        "pixels": sum(int(row["height"] or 0) * int(row["width"] or 0) for row in rows),
        "dropped_pixels": total("dropped_pixels"),
        "padded_pixels": total("padded_pixels"),
        "num_bytes": total("num_bytes"),
    }
