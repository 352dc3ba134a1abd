#!/usr/bin/env python3
"""Probe a learned codec's codes, and write what was found, with the machine and versions, as one JSON file.

    python benchmarks/probe.py shards/flowers autoencoder:weights=out/codecs/autoencoder.bin --quality 16,32

It is `limla codec probe` with every representation; `benchmarks/pages.py` makes a section of docs/results.md from the
JSON. Interrupted, it goes on where it stopped when run again.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from limla.benchmarking.machine import describe_machine
from limla.cli.console import ConsoleProgress
from limla.codecs import codec_scale
from limla.files import write_json
from limla.models.memory import keep_large_activations
from limla.probing import ProbeSettings, probe
from limla.qualities import parse_qualities


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("codec")
@click.option("--quality", "qualities", required=True, help="Of the codec: 16, or a list, 16,32.")
@click.option("--epochs", default=50, show_default=True, help="Of Barlow Twins training.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of the encoders.")
@click.option("--image-size", default=96, show_default=True, help="Side of the images in pixels.")
@click.option("--output-dir", type=click.Path(path_type=Path), default=Path("out/probe"), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/probe.json"))
def main(
    data_dir: Path,
    codec: str,
    qualities: str,
    epochs: int,
    seeds: str,
    image_size: int,
    output_dir: Path,
    output: Path,
) -> None:
    """Probe CODEC on the shards of DATA_DIR and write OUTPUT."""
    chosen = parse_qualities(qualities, scale=codec_scale(codec))
    keep_large_activations()
    result = probe(
        ProbeSettings(
            data_dir,
            output_dir,
            codec,
            tuple(quality for quality in chosen if quality is not None),
            epochs=epochs,
            seeds=tuple(map(int, seeds.split(","))),
            image_size=image_size,
        ),
        ConsoleProgress(),
    )
    words = ["python", "benchmarks/probe.py", str(data_dir), codec, "--quality", qualities]
    words += ["--epochs", str(epochs), "--seeds", seeds, "--image-size", str(image_size)]
    write_json(output, {"command": shlex.join(words), "machine": describe_machine(), **result.record})
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
