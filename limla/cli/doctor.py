"""`limla doctor`: is this installation the one that the numbers were made with?"""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand


@click.command("doctor", short_help="Versions, GPU, codecs; decoders and encoders compared.", cls=LimlaCommand)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Tell versions, GPU and codecs, and compare decoders and encoders with what is recorded in the package.

    One line each. Exits with 0 when all agree, with 1 when something differs: then numbers made here may not be
    those made elsewhere.
    """
    from limla.doctor import examine

    num_different = 0
    for finding in examine(Path.cwd()):
        click.echo(f"{finding.topic:<18} {finding.text}")
        num_different += finding.differs
    if num_different:
        what = "comparison differs" if num_different == 1 else "comparisons differ"
        click.echo(f"{num_different} {what}: numbers made here may not be those made elsewhere")
        context.exit(1)
    click.echo("all comparisons agree")
