"""`limla simulation`: simulated qualities beside real shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath

if TYPE_CHECKING:
    from limla.simulation import SimulationRow


@click.command("simulation", short_help="Compare simulated qualities with real shards.", cls=LimlaCommand)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=LocalPath(),
    help="A best.pt of limla train; may be given several times.",
)
@click.option("--data-dir", type=DataFolder(), required=True, help="Shards: source and the real qualities.")
@click.option("--quality", help="Qualities to compare, e.g. 1,5,10-90:10. [default: all that are there]")
@click.option("--codec", default="jpeg", show_default=True, help="Codec of the qualities.")
@click.option("--simulate", default="dali", show_default=True, help="cpu or dali.")
@click.option(
    "--output-dir", type=LocalPath(file_okay=False), required=True, help="Where rows and comparison go."
)
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--batch-size", default=32, show_default=True, help="Images per batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the shards' SHA-256.")
def simulation(
    checkpoints: tuple[Path, ...],
    data_dir: Path,
    quality: str | None,
    codec: str,
    simulate: str,
    output_dir: Path,
    split: str,
    batch_size: int,
    device: str,
    verify: bool,
) -> None:
    """How far simulated qualities are from real shards: accuracy, predictions, pixels.

    Evaluates each checkpoint on both, into OUTPUT_DIR, and compares image by image. PSNR is between the model's
    inputs; run the same command again to go on after an interruption.
    """
    from limla.codecs import codec_scale
    from limla.errors import SettingsError
    from limla.manifest import list_variants, parse_variant
    from limla.qualities import parse_qualities
    from limla.simulation import SimulationSettings, compare_simulation

    scale = codec_scale(codec)
    if quality is None:
        there = [parse_variant(name) for name in list_variants(data_dir)]
        qualities = tuple(number for name, number in there if name == codec and number is not None)
        if not qualities:
            raise SettingsError(
                f"{data_dir} has no {codec} shards to compare with; make some with 'limla reencode'"
            )
    else:
        qualities = tuple(number for number in parse_qualities(quality, scale=scale) if number is not None)
    settings = SimulationSettings(
        data_dir=data_dir,
        output_dir=output_dir,
        checkpoints=checkpoints,
        qualities=qualities,
        simulate=simulate,
        codec=codec,
        split=split,
        batch_size=batch_size,
        device=device,
        verify=verify,
    )
    result = compare_simulation(settings, ConsoleProgress())
    _show(result.rows, codec)
    click.echo(f"table: {result.csv_path}, {result.json_path}")


def _show(rows: tuple[SimulationRow, ...], codec: str) -> None:
    from limla.simulation import psnr_text

    lines = [
        (
            "model",
            "test",
            "n",
            "real",
            "simulated",
            "difference [95% interval]",
            "equal predictions",
            "PSNR dB mean",
            "min",
            "identical",
        )
    ]
    for row in rows:
        number = f"{row.num_images}" + (f" × {row.num_seeds} seeds" if row.num_seeds > 1 else "")
        lines.append(
            (
                row.model,
                f"{codec} {row.quality}",
                number,
                f"{row.accuracy_real:.3f}",
                f"{row.accuracy_simulated:.3f}",
                f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]",
                f"{row.equal_predictions:.3f}",
                psnr_text(row.mean_psnr_db),
                psnr_text(row.min_psnr_db),
                f"{row.num_identical} of {row.num_images}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
