"""`limla codec train`: the learned codec on your own photos."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath


@click.command("train", short_help="Train the codec autoencoder.", cls=LimlaCommand)
@click.argument("data_dir", type=DataFolder())
@click.option("--output", required=True, type=LocalPath(dir_okay=False), help="The weights file.")
@click.option("--epochs", default=60, show_default=True, help="Passes over the train split.")
@click.option("--batch-size", default=8, show_default=True, help="Crops per step.")
@click.option("--crop-size", default=128, show_default=True, help="Side of a crop in pixels.")
@click.option("--width", default=96, show_default=True, help="Channels of the convolutions.")
@click.option(
    "--bits", default=384, show_default=True, help="Of a code position at best: 160, 256, 384 or 512."
)
@click.option("--learning-rate", default=0.001, show_default=True, help="Of Adam, at first.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
def train(
    data_dir: Path,
    output: Path,
    epochs: int,
    batch_size: int,
    crop_size: int,
    width: int,
    bits: int,
    learning_rate: float,
    seed: int,
    device: str,
) -> None:
    """Train the codec `autoencoder` on crops of the train split of DATA_DIR/source.

    The val split chooses the epoch. Writes the weights file and, beside it, FILE.json: settings, versions, curve. The
    same command goes on where an interrupted one stopped.
    """
    from limla.codec_training import CodecTrainSettings, train_codec

    settings = CodecTrainSettings(
        data_dir=data_dir,
        output=output,
        epochs=epochs,
        batch_size=batch_size,
        crop_size=crop_size,
        width=width,
        bits=bits,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
    )
    result = train_codec(settings, ConsoleProgress())
    click.echo(f"best epoch {result.best_epoch} of {epochs}; val images through the codec:")
    click.echo("quality  bits/position  bits/pixel  PSNR (dB)")
    for row in result.rates:
        click.echo(f"{row['quality']:7d}  {row['bits']:13d}  {row['rate_bpp']:10.3f}  {row['psnr_db']:9.2f}")
    click.echo(f"weights: {result.output}")
    click.echo(f"next: limla reencode … --codec autoencoder:weights={result.output} --quality 16,32,48,64")
