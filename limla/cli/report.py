"""`limla report`."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath


@click.command("report", short_help="Rows → one HTML page and CSV files.", cls=LimlaCommand)
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
    "--output",
    type=LocalPath(),
    default=Path("report.html"),
    show_default=True,
    help="The HTML file; the CSV files are written beside it.",
)
def report(results_dir: Path, data_dirs: tuple[Path, ...], output: Path) -> None:
    """Report RESULTS_DIR, a folder that 'limla evaluate' or 'limla run' wrote, as one HTML file and CSV.

    The page needs no network: figures and pictures are inside it. Accuracies, attack success
    rates and the other scores of a model have 95% intervals; rate, PSNR and SSIM are means without one.
    """
    from limla.reporting import report as write

    path = write(results_dir, data_dirs, output, ConsoleProgress())
    click.echo(path)
