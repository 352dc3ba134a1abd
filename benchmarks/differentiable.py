#!/usr/bin/env python3
"""How near a differentiable model of a codec is to the codec, on real photos.

    python benchmarks/differentiable.py --data-dir shards/flowers

writes benchmarks/results/differentiable.json, and from it the table between the two marks in docs/attacks.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from tables import machine_line, table

from limla.benchmarking.machine import describe_machine
from limla.files import write_bytes, write_json
from limla.manifest import SOURCE
from limla.registry import DIFFERENTIABLE
from limla.types import Image

ROOT = Path(__file__).parents[1]
MARK = "<!-- made by benchmarks/differentiable.py -->"


def compare(codec_name: str, data_dir: Path, split: str, side: int, qualities: Sequence[int]) -> dict[str, Any]:
    """Mean PSNR over the images of a split, at each quality: of the model and of the image itself, to the codec's."""
    import torch

    from limla.codecs import build_codec
    from limla.loaders.base import LoaderSettings, open_loader
    from limla.metrics import psnr_db
    from limla.types import Preprocessing

    codec, model = build_codec(codec_name), DIFFERENTIABLE.load(codec_name)
    found: dict[int, list[tuple[float, float]]] = {quality: [] for quality in qualities}
    settings = LoaderSettings(Preprocessing(side), batch_size=8)
    with closing(open_loader("cpu", [data_dir / SOURCE], split, settings)) as loader, torch.no_grad():
        for batch in loader:
            originals = list(_pixels(batch.images))
            for quality, rows in found.items():
                modelled = _pixels(model(batch.images, quality))
                for original, near in zip(originals, modelled, strict=True):
                    real = codec.decode(codec.encode(original, quality))
                    rows.append((psnr_db(real, near), psnr_db(real, original)))
    return {
        "codec": codec_name,
        "num_images": len(found[qualities[0]]),
        "qualities": [
            {
                "quality": quality,
                "model_psnr_db": sum(near for near, _ in rows) / len(rows),
                "image_psnr_db": sum(far for _, far in rows) / len(rows),
                "min_model_psnr_db": min(near for near, _ in rows),
            }
            for quality, rows in found.items()
        ],
    }


def _pixels(images: Any) -> Iterator[Image]:
    for image in (images * 255).round().byte().permute(0, 2, 3, 1).contiguous():
        yield image.numpy()


def markdown(data: dict[str, Any]) -> str:
    """The table, with what it was measured on."""
    parts = [
        f"Measured on the {data['models'][0]['num_images']} test images of {data['dataset']} at "
        f"{data['image_size']}×{data['image_size']}: mean PSNR to what the real\ncodec makes of the image, in dB "
        f"(`{data['command']}`; {machine_line(data)})."
    ]
    parts += [
        table(
            [f"{model['codec']} quality", *(str(row["quality"]) for row in model["qualities"])],
            [
                ["differentiable model", *(f"{row['model_psnr_db']:.1f}" for row in model["qualities"])],
                ["its worst image", *(f"{row['min_model_psnr_db']:.1f}" for row in model["qualities"])],
                ["the image itself", *(f"{row['image_psnr_db']:.1f}" for row in model["qualities"])],
            ],
        )
        for model in data["models"]
    ]
    return "\n\n".join(parts)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--quality", "qualities", multiple=True, type=int, default=(1, 5, 10, 30, 50, 75, 90))
@click.option("--split", default="test", show_default=True)
@click.option("--image-size", default=224, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/differentiable.json"
)
@click.option("--page", type=click.Path(path_type=Path, exists=True), default=ROOT / "docs/attacks.md")
def main(
    data_dir: Path, qualities: tuple[int, ...], split: str, image_size: int, output: Path, page: Path
) -> None:
    """Measure every differentiable model; write the JSON and the table."""
    data = {
        "command": "python benchmarks/differentiable.py",
        "machine": describe_machine(),
        "dataset": data_dir.resolve().name,
        "split": split,
        "image_size": image_size,
        "models": [compare(name, data_dir, split, image_size, qualities) for name in DIFFERENTIABLE.names()],
    }
    write_json(output, data)
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    found = markdown(json.loads(output.read_text(encoding="utf-8")))
    write_bytes(page, f"{before}{MARK}\n\n{found}\n\n{MARK}{after}".encode())
    click.echo(f"written: {output}, and the table in {page}")


if __name__ == "__main__":
    main()
