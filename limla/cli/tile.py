"""`limla tile`: large pictures → square tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP
from limla.cli.paths import LocalPath
from limla.cli.trees import show_end, size_text
from limla.errors import DataError


@click.command("tile", short_help="Large pictures → square tiles, ready to pack.", cls=LimlaCommand)
@click.argument("source", metavar="FOLDER", type=LocalPath())
@click.option("--tile", default=128, show_default=True, help="Side of a tile in pixels.")
@click.option("--out", required=True, type=LocalPath(), help="Folder for the tiles; the same folders in it.")
@click.option(
    "--border",
    type=click.Choice(["drop", "pad"]),
    default="drop",
    show_default=True,
    help="What is left at the right and below: left out, or filled by mirroring the picture.",
)
@click.option("--overlap", default=0, show_default=True, help="Pixels that neighbouring tiles share.")
@click.option("--workers", type=int, help=WORKERS_HELP)
@click.option("--engine", default="local", show_default=True, help=ENGINE_HELP)
@click.option("--master", help=MASTER_HELP)
def tile(
    source: Path,
    tile: int,
    out: Path,
    border: Literal["drop", "pad"],
    overlap: int,
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Cut every picture under FOLDER (or the one picture it is) into tiles: JPEG, PNG, BMP, TIFF and WebP.

    FOLDER/river/a.tif becomes OUT/river/a_r000_c000.png and so on, row by row from the top left, so that OUT can be
    packed as FOLDER could. Interrupted, it goes on where it stopped when run again.
    """
    from limla.engines import build_engine
    from limla.tiling import TileSettings, tile_pictures

    progress = ConsoleProgress()
    settings = TileSettings(tile, border, overlap)
    result = tile_pictures(source, out, settings, progress, build_engine(engine, workers, master, progress))
    if result.summary and not result.summary["tiles"]:
        raise DataError(
            f"{source}: no tile was made: every picture is smaller than {tile} × {tile}; choose a smaller --tile, or "
            "--border pad"
        )
    show_end(result, _line(out, tile, result.summary))


def _line(out: Path, tile: int, found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    percent = 100 * found["dropped_pixels"] / found["pixels"]
    small = f", {found['too_small']} of them smaller than a tile" if found["too_small"] else ""
    return (
        f"{out}: {found['tiles']} tiles of {tile} × {tile} from {found['pictures']} pictures{small}, "
        f"{size_text(found['num_bytes'])}; {found['dropped_pixels']} pixels dropped ({percent:.1f}%), "
        f"{found['padded_pixels']} padded"
    )
