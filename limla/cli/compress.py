"""`limla compress`: loose pictures → files of any codec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP
from limla.cli.paths import LocalPath
from limla.cli.trees import show_end, show_skipped, size_text

if TYPE_CHECKING:
    from limla.compressing import CompressSettings
    from limla.engines.base import Engine


@click.command("compress", short_help="Loose pictures → files of any codec.", cls=LimlaCommand)
@click.argument("source", metavar="FOLDER", type=LocalPath())
@click.option(
    "--codec", default="jpeg", show_default=True, help="Codec, with knobs after a colon: jpeg:subsampling=444."
)
@click.option("--quality", type=int, help="On the codec's own scale; lossless codecs need none.")
@click.option(
    "--bpp", type=float, help="Bits per pixel, in place of --quality: each picture's nearest quality."
)
@click.option(
    "--out",
    required=True,
    type=LocalPath(),
    help="Folder for the files; FILE.npz for arrays of a learned codec's codes.",
)
@click.option("--measure", is_flag=True, help="Decode each file again and record its PSNR.")
@click.option("--workers", type=int, help=WORKERS_HELP)
@click.option("--engine", default="local", show_default=True, help=ENGINE_HELP)
@click.option("--master", help=MASTER_HELP)
def compress(
    source: Path,
    codec: str,
    quality: int | None,
    bpp: float | None,
    out: Path,
    measure: bool,
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Compress every picture under FOLDER (or the one picture it is): JPEG, PNG, BMP, TIFF and WebP.

    Each becomes OUT/<same path>.<extension of the codec>. OUT/limla-compress.csv lists size, bytes and bits per pixel
    of each; pictures that cannot be decoded are in OUT/quarantine.jsonl. Interrupted, it goes on where it stopped
    when run again.
    """
    from limla.codecs import codec_scale
    from limla.codecs.code_arrays import SUFFIX
    from limla.compressing import CompressSettings
    from limla.compressing import compress as run
    from limla.engines import build_engine
    from limla.errors import SettingsError

    if quality is None and bpp is None:
        scale = codec_scale(codec)
        quality = scale.lowest if scale.lowest == scale.highest else None  # of a lossless codec there is one
    if (quality is None) == (bpp is None):
        raise SettingsError("give one of --quality and --bpp")
    if bpp is not None:
        settings = CompressSettings.at_rate(codec, bpp, measure)
    else:
        assert quality is not None
        settings = CompressSettings(codec, quality, measure)
    progress = ConsoleProgress()
    engine_there = build_engine(engine, workers, master, progress)
    if out.suffix == SUFFIX:
        _to_codes(source, out, settings, progress, engine_there)
        return
    result = run(source, out, settings, progress, engine_there)
    show_end(result, _line(out, result.summary))


def _to_codes(
    source: Path, out: Path, settings: CompressSettings, progress: ConsoleProgress, engine: Engine
) -> None:
    from limla.compressing.codes import compress_to_codes

    found = compress_to_codes(source, out, settings, progress, engine)
    click.echo(
        f"{out}: codes of {found.num_pictures} pictures, {size_text(found.source_num_bytes)} → "
        f"{size_text(found.num_bytes)}, {found.rate_bpp:.3f} bits per pixel"
    )
    show_skipped(found.skipped)
    found.check_whole()


def _line(out: Path, found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    distortion = f", PSNR {found['mean_psnr_db']:.2f} dB" if found["mean_psnr_db"] is not None else ""
    return (
        f"{out}: {found['pictures']} pictures, {size_text(found['source_num_bytes'])} → "
        f"{size_text(found['num_bytes'])}, {found['mean_rate_bpp']:.3f} bits per pixel{distortion}{_off_target(found)}"
    )


def _off_target(found: Mapping[str, Any]) -> str:
    if not found.get("off_target"):
        return ""
    return f", {found['off_target']} of them not within 10% of {found['target_bpp']:g}"
