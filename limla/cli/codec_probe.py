"""`limla codec probe`: do a learned codec's binary codes stay useful?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath
from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.probing import ProbeResult
    from limla.probing.rows import ProbeRow


@click.command("probe", short_help="Do a learned codec's binary codes stay useful?", cls=LimlaCommand)
@click.argument("data_dir", type=DataFolder())
@click.option("--codec", required=True, help="A codec with binary codes: autoencoder:weights=FILE.")
@click.option("--quality", "qualities", required=True, help="Of the codec: 16, or a list, 16,32.")
@click.option(
    "--representation",
    "representations",
    default="flat,pooled,untrained,twins",
    show_default=True,
    help="What the linear probe sees: a list of these.",
)
@click.option("--epochs", default=50, show_default=True, help="Of Barlow Twins training.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of the encoders.")
@click.option("--image-size", default=96, show_default=True, help="Side of the images in pixels.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")
@click.option(
    "--output-dir",
    type=LocalPath(file_okay=False),
    required=True,
    help="Parts and table; finished parts there are kept.",
)
def probe(
    data_dir: Any,
    codec: str,
    qualities: str,
    representations: str,
    epochs: int,
    seeds: str,
    image_size: int,
    device: str,
    output_dir: Path,
) -> None:
    """Classify the images of DATA_DIR from their original pixels, from decoded pixels, and from the binary codes.

    A linear probe on the input itself (flat, pooled), and on the features of a small encoder, as it begins (untrained)
    and after Barlow Twins training without labels (twins), on the same images, splits and seeds. Prints one table:
    accuracy on the test split, the change against the original pixels, and the Barlow Twins check. Run the same command
    again to go on after an interruption.
    """
    from limla.cli.options import parse_qualities
    from limla.codecs import codec_scale
    from limla.models.memory import keep_large_activations
    from limla.probing import ProbeSettings
    from limla.probing import probe as run

    chosen = parse_qualities(qualities, scale=codec_scale(codec))
    names: Any = tuple(name.strip() for name in representations.split(","))
    settings = ProbeSettings(
        data_dir=data_dir,
        output_dir=output_dir,
        codec=codec,
        qualities=tuple(quality for quality in chosen if quality is not None),
        representations=names,
        epochs=epochs,
        seeds=_seeds(seeds),
        image_size=image_size,
        device=device,
    )
    keep_large_activations()
    result = run(settings, ConsoleProgress())
    _show(result)
    click.echo(f"table: {output_dir / 'probe.csv'}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(
            f"--seeds '{text}': write whole numbers with commas between, as in 0,1,2"
        ) from error


def _show(result: ProbeResult) -> None:
    record = result.record
    counts = record["num_samples"]
    click.echo(
        f"{record['dataset']}, {record['settings']['codec']}: {counts['train']} images to learn from, "
        f"{counts['test']} to test, {len(record['class_names'])} classes; always the largest one: "
        f"{record['accuracy_of_largest_class']:.3f}"
    )
    head = (
        "probe of",
        "input",
        "bpp",
        "values",
        "accuracy [95%]",
        "against pixels, points [95%]",
        "detectable",
        "p (Holm)",
    )
    twins = ("twins' loss", "diagonal", "off-diagonal")
    has_twins = any(row.diagonal is not None for row in result.rows)
    lines = [(*head, *twins) if has_twins else head]
    lines += [_line(row, has_twins) for row in result.rows]
    for line in _aligned(lines):
        click.echo(line)
    if has_twins:
        click.echo(
            "twins' check on test: the diagonal is 1 and the rest 0 for values that do not depend on the view and each "
            f"say something of their own; {record['off_diagonal_by_chance']:.3f} is off the diagonal by chance"
        )


def _line(row: ProbeRow, has_twins: bool) -> tuple[str, ...]:
    source = row.input if row.quality is None else f"{row.input} q{row.quality}"
    change = ""
    if row.difference is not None:
        assert row.difference_low is not None
        assert row.difference_high is not None
        low, high = 100 * row.difference_low, 100 * row.difference_high
        change = f"{100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    cells = (
        row.representation,
        source,
        "" if row.rate_bpp is None else f"{row.rate_bpp:.3f}",
        str(row.num_values),
        f"{row.accuracy:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]",
        change,
        "" if row.detectable is None else f"{100 * row.detectable:.1f}",
        "" if row.p_holm is None else f"{row.p_holm:.3f}",
    )
    if not has_twins:
        return cells
    check = (row.test_loss, row.diagonal, row.off_diagonal)
    return (
        *cells,
        *(
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in zip(check, (1, 3, 3), strict=True)
        ),
    )


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
