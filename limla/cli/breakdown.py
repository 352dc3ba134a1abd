"""`limla breakdown`: where the loss comes from, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath
from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.analysis.breakdown import Breakdown, Step
    from limla.plans import AttackPlan


@click.command(
    "breakdown", short_help="Decoder, resize, codec, attack: each one's share of the loss.", cls=LimlaCommand
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    required=True,
    type=LocalPath(),
    help="A best.pt of limla train; several that differ in the seed alone are pooled.",
)
@click.option("--data-dir", type=DataFolder(), required=True, help="Shards of the dataset.")
@click.option("--quality", type=int, required=True, help="Quality of the codec; its shards must be there.")
@click.option("--codec", default="jpeg", show_default=True)
@click.option("--attack", help="The last step, e.g. fgsm, or pgd:eps=2/255,steps=20. [default: none]")
@click.option("--eps", help="Largest change per value on the [0, 1] scale, for the attack. [default: 8/255]")
@click.option("--output-dir", type=LocalPath(file_okay=False), required=True, help="Rows and table.")
@click.option("--model", "own_model", help="package.module:function that the checkpoint names as its model.")
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--batch-size", default=32, show_default=True, help="Part of the condition.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")
def breakdown(attack: str | None, eps: str | None, output_dir: Path, **options: Any) -> None:
    """How much of the loss of accuracy comes from another decoder, another resize, the codec, and an attack.

    Evaluates the originals as limla reads them, then with one step more each time, and prints each step's change of
    accuracy with its 95% interval, on the same images. The table is also written to OUTPUT_DIR. Run the same command
    again to go on after an interruption.
    """
    from limla.breakdown import TABLE, BreakdownSettings, break_down
    from limla.cli.options import parse_number
    from limla.models.memory import keep_large_activations

    plan = _attack(attack, eps)
    if eps is not None:
        options["eps"] = parse_number(eps)
    settings = BreakdownSettings(results_dir=output_dir, attack=plan, **options)
    keep_large_activations()
    for number, chain in enumerate(break_down(settings, ConsoleProgress())):
        if number:
            click.echo()
        _show(chain)
    click.echo(f"table: {output_dir / TABLE}.csv")


def _attack(text: str | None, eps: str | None) -> AttackPlan | None:
    """The attack; `eps` must be of use to it."""
    from limla.evaluation import check_parameters_used
    from limla.plans import NO_ATTACK, parse_attack

    if text is None or text == NO_ATTACK:
        if eps is not None:
            raise SettingsError("--eps is given, but no --attack: name one, as in --attack pgd")
        return None
    plan = parse_attack(text)
    check_parameters_used((plan.name,), eps)
    return plan


def _show(chain: Breakdown) -> None:
    """The chain as a table, each step's change in percentage points."""
    first, *others = chain.seeds
    seeds = f"{1 + len(others)} seeds" if others else f"seed {first}"
    click.echo(f"{chain.label}, {seeds}, {chain.num_images} images of {chain.dataset} {chain.split}")
    lines: list[tuple[str, ...]] = [("step", "accuracy", "change in points [95%]", "share of the loss")]
    lines += [_line(step) for step in chain.steps]
    total = chain.total
    lines.append(("in all", "", _points(total.difference, total.low, total.high), ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    if any(change.is_short_of_seeds for change in (total, *(step.change for step in chain.steps)) if change):
        click.echo(
            f"where the {seeds} differ, an interval is about other trainings and wide: more seeds narrow it, more "
            "images do not"
        )


def _line(step: Step) -> tuple[str, str, str, str]:
    change = step.change
    return (
        step.text,
        f"{step.accuracy:.3f}",
        "" if change is None else _points(change.difference, change.low, change.high),
        "" if step.share is None else f"{step.share:.0%}",
    )


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
