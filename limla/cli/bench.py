"""`limla bench`: how fast each stage is on this machine, against its limit or against what it replaces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath
from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.benchmarking import BenchSettings, Comparison
    from limla.benchmarking.harness import ContenderRow

_FOLDER = LocalPath(file_okay=False)
_COUNT = click.IntRange(1)


class _BenchCommand(LimlaCommand):
    go_on = "what is not shown above is lost: run this command again"


@click.command("bench", short_help="Images/s of each stage on this machine.", cls=_BenchCommand)
@click.option(
    "--data-dir", type=DataFolder(), help="Packed shards to measure on; only their originals are read."
)
@click.option("--photos", type=_FOLDER, help="A folder of JPEGs to measure on. [default: generated photos]")
@click.option(
    "--min-side",
    default=0,
    help="Leave out PHOTOS whose longer side is shorter; docs/benchmarks.md is of 500.",
)
@click.option(
    "--stage",
    "stages",
    default="reencode,load,evaluate,end-to-end",
    show_default=True,
    help="Which stages, separated by commas.",
)
@click.option(
    "--images",
    "num_images",
    type=_COUNT,
    default=256,
    show_default=True,
    help="Images re-encoded and loaded.",
)
@click.option(
    "--attacked",
    "num_attacked",
    type=_COUNT,
    default=8,
    show_default=True,
    help="Images attacked and evaluated end to end.",
)
@click.option(
    "--rounds",
    type=_COUNT,
    default=3,
    show_default=True,
    help="Timed passes of each contender, in turn; more make the ratios surer.",
)
@click.option("--model", default="mobilenet_v2", show_default=True, help="The model, with untrained weights.")
@click.option(
    "--image-size",
    type=click.IntRange(32),
    default=224,
    show_default=True,
    help="Side of the model's input in pixels.",
)
@click.option("--batch-size", type=_COUNT, default=32, show_default=True, help="Images per batch.")
@click.option("--output", type=LocalPath(dir_okay=False), help="Write everything as JSON here too.")
def bench(output: Path | None, stages: str, **options: Any) -> None:
    """Measure the stages against their limits, and attacks against plain torchattacks, on your images and machine.

    Each pass is a fresh process. Everything is done in a temporary folder; your photos and shards are only read
    (DATA_DIR may be a URL, as s3://bucket/photos). A ratio is the median of those within each round, so other work on
    the machine disturbs it less than the speeds.
    """
    from limla.benchmarking import BenchSettings
    from limla.benchmarking import bench as measure

    if output is not None and not output.absolute().parent.is_dir():
        raise SettingsError(f"{output.parent}: no such folder; make it, or write elsewhere")
    names = tuple(dict.fromkeys(name.strip() for name in stages.split(",")))
    settings = BenchSettings(stages=names, **options)

    def show(stage: str, comparison: Comparison) -> None:
        click.echo(f"\n{_TITLES[stage]}")
        for line in _table(stage, comparison, settings.rounds):
            click.echo(line)

    found = measure(settings, ConsoleProgress(), show)
    if output is not None:
        _write(output, settings, found)


_PLAIN = (int, str, tuple, type(None))
_TITLES = {
    "reencode": "Re-encode at 7 JPEG qualities",
    "load": "Load to float32 batches",
    "evaluate": "Attacks on the CPU",
    "end-to-end": "limla evaluate from start to end",
}


def _table(stage: str, comparison: Comparison, rounds: int) -> list[str]:
    """One line per contender and part: speed, memory, and its ratio to the reference; then what explains them."""
    columns = _columns(stage, comparison)
    lines = [("", *columns), *zip(map(_name, comparison.contenders), *columns.values(), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    ]
    shown += [f"{name}: skipped, {reason}" for name, reason in comparison.skipped.items()]
    if comparison.ratios:
        references = ", ".join(dict.fromkeys(row.reference for row in comparison.ratios))
        shown.append(f"ratio: images/s over those of {references}; {_of_rounds(rounds)}")
    return shown + [_split(row.seconds, row.facts) for row in comparison.passes if "waiting" in row.facts][-1:]


def _columns(stage: str, comparison: Comparison) -> dict[str, list[str]]:
    """Head → a cell for each contender's part; a column that says nothing is left out."""
    rows = comparison.contenders
    ratios = [
        next((one for one in comparison.ratios if (one.contender, one.part) == (row.contender, row.part)), None)
        for row in rows
    ]
    columns = {
        "images/s": [f"{row.images_per_s:.1f}" for row in rows],
        "first pass": [_first_pass(row) for row in rows],
        "CPU ms/image": [f"{row.cpu_ms_per_image:.2f}" for row in rows],
        # the other stages give no batches, or begin with one of another kind
        "first batch s": [f"{row.first_batch_s:.2f}" if stage == "load" else "" for row in rows],
        "peak MB": ["" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}" for row in rows],
        "ratio": ["" if one is None else f"{one.median:.2f}" for one in ratios],
        "range": ["" if one is None else f"{one.low:.2f}–{one.high:.2f}" for one in ratios],
    }
    return {head: [cell or "–" for cell in cells] for head, cells in columns.items() if any(cells)}


def _name(row: ContenderRow) -> str:
    return f"{row.contender}, {row.part}" if row.part else row.contender


def _first_pass(row: ContenderRow) -> str:
    """Of the process; empty where the timed pass is the first, or the first one leaves the part out."""
    first = row.first_pass_images_per_s
    return "" if first is None or first == row.images_per_s else f"{first:.1f}"


def _of_rounds(rounds: int) -> str:
    hint = "more (--rounds) make it surer"
    if rounds == 1:
        return f"of one round: {hint}"
    return f"{'mean of 2' if rounds == 2 else f'median of {rounds}'} rounds and their range: {hint}"


def _split(seconds: float, facts: dict[str, Any]) -> str:
    waiting, model = facts["waiting"], facts["model"]
    rest = seconds - waiting - model
    return (
        f"last pass: {seconds:.1f} s = start and rows {rest:.1f} + waiting for the loader {waiting:.1f} + "
        f"attacks and model {model:.1f}"
    )


def _write(output: Path, settings: BenchSettings, found: dict[str, Comparison]) -> None:
    from dataclasses import asdict

    from limla.benchmarking import as_record
    from limla.files import write_json

    shown = {name: value if isinstance(value, _PLAIN) else str(value) for name, value in vars(settings).items()}
    command = " ".join(["limla", *sys.argv[1:]])
    write_json(
        output,
        {stage: as_record(asdict(rows), _TITLES[stage], command, shown) for stage, rows in found.items()},
    )
    click.echo(f"\nwritten: {output}")
