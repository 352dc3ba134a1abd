#!/usr/bin/env python3
"""Rate, distortion and speed of every codec on a folder of photos, with the machine and versions, as one JSON file.

    python benchmarks/codecs_rd.py PHOTOS --output-dir out/codecs

It is `limla codecs compare` with the options shown; interrupted, it goes on. A learned codec takes part where its
weights are given: `--codec autoencoder:weights=FILE` besides the rest of the catalogue. `benchmarks/pages.py` makes a
section of docs/results.md, and docs/codecs.svg, from the JSON. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from limla.benchmarking.machine import describe_machine
from limla.cli.console import ConsoleProgress
from limla.comparison import CompareSettings, compare
from limla.comparison.choosing import contenders
from limla.comparison.curves import QualityMean
from limla.files import write_json

RATES_BPP = (0.1, 4.0)


def _compact(row: Any) -> dict[str, Any]:
    """A row with its numbers to five digits: more would be noise."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in dataclasses.asdict(row).items()
    }


def _codec_cpu_seconds(means: Sequence[QualityMean]) -> float:
    """What encoding and decoding took, in whichever sessions the parts were made."""
    return sum(
        mean.num_images * (1 / mean.encode_images_per_s + 1 / mean.decode_images_per_s) for mean in means
    )


def _public(text: str) -> str:
    """A codec's text without the path of its weights."""
    return re.sub(r"weights=[^,]*", "weights=FILE", text)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output-dir", type=click.Path(path_type=Path), default=Path("out/codecs"), show_default=True)
@click.option("--split", help="Where PHOTOS are shards. A learned codec wants photos it was not trained on.")
@click.option("--images", default=24, show_default=True)
@click.option("--qualities", default=7, show_default=True)
@click.option("--codec", "more", multiple=True, help="Besides those that can be built without a setting.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/codecs_rd.json"))
def main(
    photos: Path,
    output_dir: Path,
    split: str | None,
    images: int,
    qualities: int,
    more: tuple[str, ...],
    output: Path,
) -> None:
    """Compare every codec on PHOTOS and write OUTPUT."""
    every, left_out = contenders(None)
    settings = CompareSettings(
        folder=photos,
        output_dir=output_dir,
        codecs=(*(contender.label for contender in every), *more),
        split=split,
        num_images=images,
        num_points=qualities,
        rates_bpp=RATES_BPP,
    )
    started, cpu_started = time.monotonic(), time.process_time()
    result = compare(settings, ConsoleProgress())
    asked = f" --split {split}" if split else ""
    asked += "".join(f" --codec {_public(text)}" for text in more)
    chosen, _ = contenders(settings.codecs)
    write_json(
        output,
        {
            "command": f"python benchmarks/codecs_rd.py PHOTOS --images {images} --qualities {qualities}{asked}",
            "machine": describe_machine(),
            "photos": photos.resolve().name,
            "split": split,
            "num_images": result.num_images,
            "num_points": qualities,
            "rates_bpp": list(RATES_BPP),
            "codec_cpu_seconds": round(_codec_cpu_seconds(result.means), 1),
            "last_session_seconds": round(time.monotonic() - started, 1),
            "last_session_cpu_seconds": round(time.process_time() - cpu_started, 1),
            "codecs": [
                {
                    "codec": contender.label,
                    "knob": contender.codec.scale.knob,
                    "settings": contender.codec.settings(),
                    "version": contender.codec.version(),
                }
                for contender in chosen
            ],
            "left_out": {
                name: reason
                for name, reason in left_out.items()
                if not any(text.startswith(name) for text in more)
            },
            "means": [_compact(row) for row in result.means],
            "differences": [_compact(row) for row in result.differences],
            "crossings": [_compact(row) for row in result.crossings],
        },
    )
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
