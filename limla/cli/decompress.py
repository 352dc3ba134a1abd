"""`limla decompress`: files of any codec → lossless pictures."""

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


@click.command("decompress", short_help="Files of any codec → PNG or TIFF.", cls=LimlaCommand)
@click.argument("source", metavar="FOLDER", type=LocalPath())
@click.option("--out", required=True, type=LocalPath(), help="Folder for the pictures; the same tree.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["png", "tiff"]),
    default="png",
    show_default=True,
    help="Of the pictures made; both hold the pixels as they are.",
)
@click.option(
    "--weights",
    type=LocalPath(),
    help="Of a learned codec. [default: the copy that limla compress left beside the files, or above]",
)
@click.option("--workers", type=int, help=WORKERS_HELP)
@click.option("--engine", default="local", show_default=True, help=ENGINE_HELP)
@click.option("--master", help=MASTER_HELP)
def decompress(
    source: Path,
    out: Path,
    file_format: Literal["png", "tiff"],
    weights: Path | None,
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Decode every file under FOLDER (or the one file it is) that a codec of limla's writes; .laff names its codec.

    FOLDER may be a FILE.npz of codes, too: give --weights. A damaged file is named with its reason, in
    OUT/quarantine.jsonl too, and the others are done. A file of a progressive codec that was cut off is decoded as
    far as it goes. Interrupted, it goes on where it stopped when run again.
    """
    from limla.codecs.code_arrays import SUFFIX
    from limla.compressing import DecompressSettings
    from limla.compressing import decompress as run
    from limla.engines import build_engine

    progress = ConsoleProgress()
    settings = DecompressSettings(file_format, weights)
    engine_there = build_engine(engine, workers, master, progress)
    if source.suffix == SUFFIX and not source.is_dir():
        from limla.compressing.codes import decompress_codes

        result = decompress_codes(source, out, settings, progress, engine_there)
    else:
        result = run(source, out, settings, progress, engine_there)
    show_end(result, _line(out, result.summary))


def _line(out: Path, found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    cut = f", {found['cut_off']} of them cut off" if found["cut_off"] else ""
    return (
        f"{out}: {found['pictures']} pictures{cut}, {size_text(found['source_num_bytes'])} → "
        f"{size_text(found['num_bytes'])}"
    )
