"""`limla verify`: is every shard what its manifest says?"""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder


@click.command("verify", short_help="Check shards against their manifests.", cls=LimlaCommand)
@click.argument("data_dir", type=DataFolder())
@click.option("--sizes-only", is_flag=True, help="Check presence and size, not the contents.")
def verify(data_dir: Path, sizes_only: bool) -> None:
    """Check every shard of DATA_DIR (a dataset folder) against its manifest: presence, size, SHA-256, index.

    Of a learned codec the weights beside the shards too, without which nobody reads them.

    Names every file that is wrong and exits with 2; exits with 0 when all is well.
    """
    from limla.errors import DataError
    from limla.packing.verification import variant_folders, verify_variant

    progress = ConsoleProgress()
    problems: list[str] = []
    for folder in variant_folders(data_dir):
        report = verify_variant(folder, not sizes_only, progress)
        problems += report.problems
        if not report.problems:
            click.echo(
                f"{folder}: {report.num_shards} shards, {report.num_samples} samples: as its manifest says"
            )
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise DataError(f"{data_dir}: {len(problems)} problems, listed above")
