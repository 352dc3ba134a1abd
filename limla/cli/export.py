"""`limla export`: shards as a tree of loose files."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath


@click.command("export", short_help="Shards → loose files in class folders.", cls=LimlaCommand)
@click.argument("data_dir", type=DataFolder())
@click.argument("folder", type=LocalPath())
@click.option("--variants", help="Which, separated by commas: source,jpeg-q10. [default: all]")
def export(data_dir: Path, folder: Path, variants: str | None) -> None:
    """Write the images of DATA_DIR's shards as FOLDER/q10/train/<class>/<name>.jpg, byte for byte."""
    from limla.exporting import export as run

    chosen = None if variants is None else [name.strip() for name in variants.split(",") if name.strip()]
    result = run(data_dir, folder, chosen, ConsoleProgress())
    click.echo(f"{folder}: {result.num_written} files written, {result.num_there} were there")
