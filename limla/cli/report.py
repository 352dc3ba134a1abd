"""`limla report`."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath


@click.command("report", short_help="Rows → one HTML page, CSV and Parquet files.", cls=LimlaCommand)
@click.argument("results_dir", type=LocalPath())
@click.option(
    "--data-dir",
    "data_dirs",
    type=DataFolder(),
    multiple=True,
    help="Dataset folder that was evaluated (holds 'source' and '<codec>-q<quality>'), for rate, PSNR, SSIM, "
    "class names and settings; repeat it for several datasets.",
)
@click.option(
    "--margin",
    default="1",
    show_default=True,
    metavar="POINTS",
    help="The loss of accuracy you accept, in percentage points: 1, 0.5 …",
)
@click.option(
    "--output",
    type=LocalPath(),
    default=Path("report.html"),
    show_default=True,
    help="The HTML file; every table is written beside it, as CSV and Parquet.",
)
def report(results_dir: Path, data_dirs: tuple[Path, ...], margin: str, output: Path) -> None:
    """Report RESULTS_DIR, a folder that 'limla evaluate' or 'limla run' wrote, as one HTML file and tables.

    The page begins with what was found, in sentences; its plots are interactive and need no network. Every number has
    a 95% interval where one is defined, and every comparison is made image by image.
    """
    from limla.analysis.limits import parse_points
    from limla.reporting import report as write

    path = write(results_dir, data_dirs, output, ConsoleProgress(), parse_points(margin))
    click.echo(path)
