"""`limla fetch`: download a public dataset as class folders."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import LocalPath


@click.command("fetch", short_help="Download a public dataset.", cls=LimlaCommand)
@click.argument("name")
@click.argument("folder", type=LocalPath(file_okay=False))
@click.option("--merge", is_flag=True, help="Put official splits together; `limla pack` then splits by class.")
def fetch(name: str, folder: Path, merge: bool) -> None:
    """Download dataset NAME into FOLDER as class folders, ready for `limla pack` (needs a network).

    Known: imagenette, flowers102, cifar10, cifar100, eurosat, oxfordiiitpet, food101, dtd, fgvcaircraft.
    """
    from limla.fetching import fetch as fetch_dataset

    num_images = fetch_dataset(name, folder, merge, ConsoleProgress())
    # an official split without a validation part, as CIFAR's
    share = " --val-from-train 0.1" if (folder / "train").is_dir() and not (folder / "val").is_dir() else ""
    click.echo(f"{num_images} images in {folder}; next: limla pack {folder} shards/{folder.name}{share}")
