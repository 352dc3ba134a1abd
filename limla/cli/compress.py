"""`limla compress`: loose pictures → files of any codec."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP
from limla.cli.paths import LocalPath


@click.command("compress", short_help="Loose pictures → files of any codec.", cls=LimlaCommand)
@click.argument("source", metavar="FOLDER", type=LocalPath())
@click.option(
    "--codec", default="jpeg", show_default=True, help="Codec, with knobs after a colon: jpeg:subsampling=444."
)
@click.option("--quality", type=int, help="On the codec's own scale.")
@click.option(
    "--bpp", type=float, help="Bits per pixel, in place of --quality: each picture's nearest quality."
)
@click.option("--out", required=True, type=LocalPath(), help="Folder for the files; the same tree.")
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
    from limla.compressing import CompressSettings
    from limla.compressing import compress as run
    from limla.engines import build_engine
    from limla.errors import SettingsError

    if (quality is None) == (bpp is None):
        raise SettingsError("give one of --quality and --bpp")
    if quality is not None:
        settings = CompressSettings(codec, quality, measure)
    else:
        assert bpp is not None
        settings = CompressSettings.at_rate(codec, bpp, measure)
    progress = ConsoleProgress()
    result = run(source, out, settings, progress, build_engine(engine, workers, master, progress))
    found = result.summary
    if found:
        distortion = f", PSNR {found['mean_psnr_db']:.2f} dB" if found["mean_psnr_db"] is not None else ""
        click.echo(
            f"{out}: {found['pictures']} pictures, {found['source_num_bytes'] / 1e6:.1f} MB → "
            f"{found['num_bytes'] / 1e6:.1f} MB, {found['mean_rate_bpp']:.3f} bits per pixel{distortion}; "
            f"{result.num_made} made now"
        )
    if result.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(result.skipped.items()))
        click.echo(f"skipped {result.skipped.total()}: {reasons}")
    result.check_whole()
