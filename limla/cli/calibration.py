"""`limla calibration`: write the calibration dataset."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import LocalPath


@click.command("calibration", short_help="Write a dataset with a known answer.", cls=LimlaCommand)
@click.argument("folder", type=LocalPath(file_okay=False))
@click.option(
    "--images", "num_per_class", default=80, show_default=True, help="Images of each of the 8 classes."
)
@click.option("--image-size", default=64, show_default=True, help="Side in pixels.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal files.")
def calibration(folder: Path, num_per_class: int, image_size: int, seed: int) -> None:
    """Write a dataset whose class signal lies in known spatial frequencies.

    Low quality must hurt its fine classes first and its coarse ones last: an instrument's self-test.
    """
    from limla.calibration import CalibrationSettings, make_calibration

    settings = CalibrationSettings(num_per_class=num_per_class, image_size=image_size, seed=seed)
    num_images = make_calibration(folder, settings, ConsoleProgress())
    click.echo(f"{num_images} images in {folder}")
