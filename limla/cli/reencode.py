"""`limla reencode`: source shards at each quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP
from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.paths import AnyPath
    from limla.progress import Progress
    from limla.reencoding import VariantSummary


@click.command("reencode", short_help="Source shards → shards at each quality.", cls=LimlaCommand)
@click.argument("data_dir")
@click.option(
    "--codec",
    default="jpeg",
    show_default=True,
    help="With knobs as in jpeg:subsampling=444; see limla codecs list.",
)
@click.option(
    "--quality",
    "qualities",
    help="10, 10-90 or 10-90:10, on the codec's scale. [default of jpeg: 1,5,10,50,90]",
)
@click.option("--bpp", help="Rates instead of qualities, in bits per pixel: 0.25 or 0.15,0.3,0.6.")
@click.option(
    "--match",
    type=click.Choice(["set", "image"]),
    help="With --bpp: one quality for the whole set, by its mean rate, or each image its own. [default: set]",
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
    qualities: str | None,
    bpp: str | None,
    match: str | None,
    subsampling: str | None,
    measure: str,
    seed: int,
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Re-encode DATA_DIR/source into DATA_DIR/jpeg-q10 and so on, one shard folder for each quality.

    With --bpp the quality is found by search, so that codecs are compared at equal rate: one for the set
    (jpeg-q23), or with --match image one for each image (jpeg-bpp-q250: 250 thousandths of a bit per pixel).

    Interrupted, it goes on where it stopped when run again; adding qualities makes only the new ones.
    """
    from limla.cli.options import parse_measure
    from limla.codecs import codec_name
    from limla.codecs.matching import BPP
    from limla.engines import build_engine
    from limla.paths import open_folder
    from limla.reencoding import ReencodeSettings
    from limla.reencoding import reencode as run

    folder = open_folder(data_dir)
    progress = ConsoleProgress()
    if subsampling is not None:
        codec = f"{codec}{',' if ':' in codec else ':'}subsampling={subsampling}"
    if match is not None and bpp is None:
        raise SettingsError("--match is given, but no --bpp: name rates, as in --bpp 0.25,0.5")
    if bpp is not None:
        if qualities is not None:
            raise SettingsError("--quality and --bpp are two ways to say how small: leave one out")
        codec, chosen = _at_rates(folder, codec, bpp, match == "image", seed, workers, progress)
    else:
        chosen = _qualities(codec, qualities)
    settings = ReencodeSettings(
        codec=codec,
        qualities=chosen,
        measure=parse_measure(measure),
        seed=seed,
        workers=workers,
        engine=engine,
    )
    result = run(folder, settings, progress, build_engine(engine, workers, master, progress))
    if codec_name(codec).endswith(BPP):
        _say_what_missed(folder, result.variants, progress)
    for variant in result.variants:
        state = "made" if variant.variant in result.made else "was there"
        click.echo(
            f"{folder / variant.variant}: {variant.num_images} images, {variant.num_bytes / 1e6:.1f} MB, "
            f"{variant.mean_rate_bpp:.3f} bits per pixel, {state}"
        )


def _qualities(codec: str, text: str | None) -> tuple[int, ...]:
    from limla.cli.options import parse_qualities
    from limla.codecs import codec_name, codec_scale

    scale = codec_scale(codec)
    if text is None:
        if codec_name(codec) != "jpeg":
            raise SettingsError(
                f"--quality is missing: {codec} takes {scale.knob} {scale.lowest} to {scale.highest}, as in "
                f"--quality {scale.lowest},{scale.highest}; or give --bpp, rates in bits per pixel"
            )
        text = "1,5,10,50,90"
    return tuple(quality for quality in parse_qualities(text, scale=scale) if quality is not None)


def _at_rates(
    folder: AnyPath,
    codec: str,
    text: str,
    of_each_image: bool,
    seed: int,
    workers: int | None,
    progress: Progress,
) -> tuple[str, tuple[int, ...]]:
    """The codec and qualities that a list of rates asks for."""
    from limla.cli.options import parse_number
    from limla.codecs import at_rate, codec_name
    from limla.codecs.matching import BPP, THOUSANDTHS, check_rate
    from limla.reencoding.rates import match_rates

    if codec_name(codec).endswith(BPP) and not of_each_image:
        raise SettingsError(
            f"{codec} finds a quality for each image: give --match image, or --codec {codec.replace(BPP, '', 1)}"
        )
    rates = [check_rate(parse_number(part.strip())) for part in text.split(",")]
    if of_each_image:
        return at_rate(codec), tuple(round(rate * THOUSANDTHS) for rate in rates)
    found = match_rates(folder, codec, rates, seed=seed, workers=workers, progress=progress)
    for one in found:
        progress.say(
            f"{one.target_bpp:g} bits per pixel: {codec} at {one.quality} takes {one.mean_bpp:.3f}, the mean of "
            f"{one.num_images} images"
        )
    return codec, tuple(one.quality for one in found)


def _say_what_missed(folder: AnyPath, variants: Sequence[VariantSummary], progress: Progress) -> None:
    """How many images did not come near the rate: none of the codec's qualities does."""
    from limla.codecs.matching import far_from_rate
    from limla.manifest import parse_variant
    from limla.results import read_encodings

    for variant in variants:
        quality = parse_variant(variant.variant)[1]
        assert quality is not None
        rates = read_encodings(folder, [variant.variant])["rate_bpp"].to_pylist()
        if num_far := sum(far_from_rate(rate, quality) for rate in rates):
            progress.say(
                f"warning: {variant.variant}: {num_far} of {len(rates)} images are more than a tenth away from "
                f"{quality / 1000:g} bits per pixel, which no quality of the codec comes nearer to"
            )
