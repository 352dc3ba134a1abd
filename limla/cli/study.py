"""`limla study run|status|report`: a grid from one TOML file."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import LocalPath

_FILE = click.argument("study_file", type=LocalPath())


@click.group("study", short_help="A grid from one file: run, status, report.")
def study() -> None:
    """Carry out a study: datasets, codecs and qualities, models, training conditions, seeds, attacks, threat models.

    docs/study.md lists every entry of a study file.
    """


@study.command("run", short_help="Compute what is not there yet, then report.", cls=LimlaCommand)
@_FILE
def run(study_file: Path) -> None:
    """Carry out STUDY_FILE and write its report; run it again to go on after an interruption.

    Everything in the file is checked before any work. What is there already is kept: models and cells are found by a
    hash of all that decides them, so a changed entry computes only what depends on it.
    """
    import time

    from limla.models.memory import keep_large_activations
    from limla.running import run as run_study
    from limla.study import read_settings, study_from

    settings, file = read_settings(study_file)
    planned = study_from(settings, file)
    keep_large_activations()
    started = time.monotonic()
    result = run_study(planned, ConsoleProgress(), file)
    for stage, seconds in result.seconds.items():
        click.echo(f"{stage:>9} {seconds:7.1f} s")
    click.echo(f"    total {time.monotonic() - started:7.1f} s")
    click.echo(f"report: {result.report}")


@study.command(
    "status", short_help="What is done, what is left, and about how long it takes.", cls=LimlaCommand
)
@_FILE
def status(study_file: Path) -> None:
    """Say how much of STUDY_FILE is done. Reads what lies on disk, computes nothing."""
    from limla.running import study_status
    from limla.study import read_settings, study_from

    settings, file = read_settings(study_file)
    planned = study_from(settings, file)
    with file.naming_lines():
        found = study_status(planned)
    for part in (found.variants, found.models, found.cells):
        time_left = (
            "" if part.seconds_left is None or not part.num_left else f", {_duration(part.seconds_left)} left"
        )
        click.echo(f"{part.name:>9}  {part.done} of {part.total} done, {part.num_left} left{time_left}")
    if not found.models.num_left and not found.cells.num_left:
        click.echo(f"complete; report: limla study report {study_file}")
    elif found.seconds_left is None:
        click.echo("time left: not known before the first model and the first cells are done")
    else:
        click.echo(
            f"time left: about {_duration(found.seconds_left)}; go on with: limla study run {study_file}"
        )


@study.command("report", short_help="The report of what is there.", cls=LimlaCommand)
@_FILE
def report(study_file: Path) -> None:
    """Write the report of what STUDY_FILE has computed so far, without computing more."""
    from limla.running.walk import write_study_report
    from limla.study import read_study

    click.echo(write_study_report(read_study(study_file), ConsoleProgress()))


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
