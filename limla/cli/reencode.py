"""`limla reencode`: source shards at each quality."""

from __future__ import annotations

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP


@click.command("reencode", short_help="Source shards → shards at each quality.", cls=LimlaCommand)
@click.argument("data_dir")
@click.option("--codec", default="jpeg", show_default=True, help="Name of the codec.")
@click.option(
    "--quality", "qualities", default="1,5,10,50,90", show_default=True, help="List of 10, 10-90 or 10-90:10."
)
@click.option(
    "--subsampling",
    help="Chroma subsampling, 420, 422 or 444: decides the bytes as quality does. [default: 420 for JPEG]",
)
@click.option(
    "--measure",
    default="256",
    show_default=True,
    help="Images whose PSNR and SSIM are measured: a number, all or none. Bytes are counted for every image.",
)
@click.option("--seed", default=0, show_default=True, help="Of the draw of the measured images.")
@click.option("--workers", type=int, help=WORKERS_HELP)
@click.option("--engine", default="local", show_default=True, help=ENGINE_HELP)
@click.option("--master", help=MASTER_HELP)
def reencode(
    data_dir: str,
    codec: str,
    qualities: str,
    subsampling: str | None,
    measure: str,
    seed: int,
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Re-encode DATA_DIR/source into DATA_DIR/jpeg-q10 and so on, one shard folder for each quality.

    Interrupted, it goes on where it stopped when run again; adding qualities makes only the new ones.
    """
    from limla.cli.options import parse_measure, parse_qualities
    from limla.codecs import codec_scale
    from limla.engines import build_engine
    from limla.paths import open_folder
    from limla.reencoding import ReencodeSettings
    from limla.reencoding import reencode as run

    chosen = parse_qualities(qualities, scale=codec_scale(codec))
    settings = ReencodeSettings(
        codec=codec,
        qualities=tuple(quality for quality in chosen if quality is not None),
        subsampling=subsampling,
        measure=parse_measure(measure),
        seed=seed,
        workers=workers,
        engine=engine,
    )
    folder = open_folder(data_dir)
    progress = ConsoleProgress()
    result = run(folder, settings, progress, build_engine(engine, workers, master, progress))
    for variant in result.variants:
        state = "made" if variant.variant in result.made else "was there"
        click.echo(
            f"{folder / variant.variant}: {variant.num_images} images, {variant.num_bytes / 1e6:.1f} MB, "
            f"{variant.mean_rate_bpp:.3f} bits per pixel, {state}"
        )
