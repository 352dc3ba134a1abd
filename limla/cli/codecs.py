"""`limla codecs`, and its commands compare and list: what the codecs are, and what each costs and loses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from limla.cli import LazyGroup, LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import LocalPath

if TYPE_CHECKING:
    from limla.comparison import CompareResult


class _CodecsGroup(LazyGroup):
    table: ClassVar[dict[str, str]] = {
        "list": "limla.cli.codecs:list_codecs",
        "compare": "limla.cli.codecs:compare",
        "train": "limla.cli.codec_train:train",
        "probe": "limla.cli.codec_probe:probe",
    }
    aliases: ClassVar[dict[str, str]] = {}


@click.group("codecs", short_help="List, compare, train and probe codecs.", cls=_CodecsGroup)
def codecs() -> None:
    """The codecs of the catalogue: what they are, how they compare on your photos (docs/codecs.md), and one that learns
    from them (docs/learned-codec.md). `limla codec` is the same.
    """


@click.command("compare", short_help="Rate, distortion and speed of each codec.", cls=LimlaCommand)
@click.argument("folder", type=LocalPath())
@click.option(
    "--codecs",
    "texts",
    help="List of jpeg,webp; knobs as in jpeg:subsampling=444; may be given several times. [default: all]",
    multiple=True,
)
@click.option("--split", help="Of shards: draw from train, val or test alone. [default: all]")
@click.option("--images", default=24, show_default=True, help="Photos, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option(
    "--qualities", default=7, show_default=True, help="Points of each codec, evenly spread in log rate."
)
@click.option(
    "--bpp", help="Range of their rates, e.g. 0.1-2 bits per pixel. [default: each codec's whole range]"
)
@click.option("--output-dir", type=LocalPath(file_okay=False), required=True, help="Rows, tables and the page.")
@click.option("--workers", type=int, help="Threads that measure distortion. [default: one for each core]")
def compare(
    folder: Path,
    texts: tuple[str, ...],
    split: str | None,
    images: int,
    seed: int,
    qualities: int,
    bpp: str | None,
    output_dir: Path,
    workers: int | None,
) -> None:
    """Compare codecs on the photos in FOLDER: bits per pixel, PSNR, SSIM, MS-SSIM, speed, BD-rate against JPEG.

    FOLDER holds photos, in folders or not, or shards. Each codec is timed alone; run it when the machine is idle.
    Interrupted, it goes on where it stopped when run again; codecs may be added.
    """
    from limla.comparison import CompareSettings
    from limla.comparison import compare as run

    settings = CompareSettings(
        folder=folder,
        output_dir=output_dir,
        codecs=_texts(texts),
        split=split,
        num_images=images,
        seed=seed,
        num_points=qualities,
        rates_bpp=_rates(bpp),
        workers=workers,
    )
    _show(run(settings, ConsoleProgress()))


def _rates(text: str | None) -> tuple[float, float] | None:
    """ "0.1-2"; raises `SettingsError` for anything else."""
    from limla.errors import SettingsError

    if text is None:
        return None
    low, dash, high = text.partition("-")
    try:
        if dash:
            return float(low), float(high)
    except ValueError:
        pass
    raise SettingsError(f"--bpp '{text}' is not a range of bits per pixel: write it as 0.1-2")


def _texts(given: tuple[str, ...]) -> tuple[str, ...] | None:
    """The codecs of all the lists; a comma before knob=value belongs to the codec before it."""
    found: list[str] = []
    for part in (part.strip() for text in given for part in text.split(",")):
        name, equals, _ = part.partition("=")
        if equals and ":" not in name and found and ":" in found[-1]:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return tuple(found) if given else None


def _show(result: CompareResult) -> None:
    click.echo(f"{result.num_images} photos; against jpeg, with 95% intervals over the photos:")
    for row in result.differences:
        if row.bd_rate_percent is None:
            click.echo(f"{row.codec:>16}  {row.reason}")
            continue
        interval = (
            ""
            if row.bd_rate_low is None or row.bd_rate_high is None
            else f" [{row.bd_rate_low:.1f}, {row.bd_rate_high:.1f}]"
        )
        crossed = ", ".join(
            f"{crossing.rate_bpp:.3f} bpp (better {crossing.better})"
            for crossing in result.crossings
            if crossing.codec == row.codec
        )
        click.echo(
            f"{row.codec:>16}  BD-rate {row.bd_rate_percent:+.1f}%{interval} over {row.psnr_low_db:.1f} to "
            f"{row.psnr_high_db:.1f} dB" + (f"; crosses jpeg at {crossed}" if crossed else "")
        )
    click.echo(result.page)


@click.command("list", short_help="Names, knobs, settings, versions.", cls=LimlaCommand)
def list_codecs() -> None:
    """Every codec: its quality and range, file, settings, version, and what decodes or is missing."""
    from limla.codecs import build_codec
    from limla.errors import LimlaError
    from limla.loaders.decodable import DALI_CPU_DECODES, DALI_DECODES
    from limla.registry import CODECS

    for name in CODECS.names():
        try:
            plug = CODECS.load(name)
        except LimlaError as error:
            click.echo(f"{name}: {error}")
            continue
        scale = plug.scale
        loaders = "decoded by the cpu loader alone"
        if plug.extension in DALI_CPU_DECODES:
            loaders = "DALI decodes it too" + ("" if plug.extension in DALI_DECODES else ", on a CPU")
        worse = "" if scale.higher_is_better else ", higher is worse"
        click.echo(
            f"{name}: {scale.knob} {scale.lowest} to {scale.highest}{worse}; .{plug.extension}, {loaders}"
        )
        try:
            codec = build_codec(name)
        except LimlaError as error:
            click.echo(f"    {error}")
            continue
        settings = ", ".join(f"{knob} {value}".lower() for knob, value in codec.settings().items())
        click.echo(f"    {codec.version()}; {settings or 'nothing to set'}")
