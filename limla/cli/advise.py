"""`limla advise`: how far to compress."""

from __future__ import annotations

from pathlib import Path

import click

from limla.cli import LimlaCommand
from limla.cli.paths import DataFolder, LocalPath


@click.command("advise", short_help="Rows → how far to compress, in a sentence per model.", cls=LimlaCommand)
@click.argument("results_dir", type=LocalPath())
@click.option(
    "--data-dir",
    "data_dirs",
    type=DataFolder(),
    multiple=True,
    help="Dataset folder that was evaluated, for bits per pixel and storage saved; repeat it for several datasets.",
)
@click.option(
    "--margin",
    default="1",
    show_default=True,
    metavar="POINTS",
    help="The loss of accuracy you accept, in percentage points: 1, 0.5 …",
)
@click.option("--codec", help="Advise on this codec only; by default on every one evaluated.")
@click.option("--split", help="Advise on this split only; by default on every split evaluated.")
@click.option(
    "--csv", "csv_path", type=LocalPath(dir_okay=False), help="Also write a CSV file, a line per sentence."
)
@click.option("--json", "json_path", type=LocalPath(dir_okay=False), help="Also write them as JSON.")
def advise(
    results_dir: Path,
    data_dirs: tuple[Path, ...],
    margin: str,
    codec: str | None,
    split: str | None,
    csv_path: Path | None,
    json_path: Path | None,
) -> None:
    """Say how far images can be compressed, from RESULTS_DIR, a folder that 'limla evaluate' or 'limla run' wrote.

    One sentence per model and codec: the lowest quality at which less than the margin of accuracy is lost against
    the originals, with 95% confidence; or how many images it would take to tell. Clean images only: cells under
    attack, with a defence, or simulated are left out.
    """
    from limla.analysis.columns import write_csv
    from limla.analysis.encodings import read_data_folders
    from limla.analysis.limits import limit_table, limits, parse_points, sentence
    from limla.analysis.pairs import collect
    from limla.errors import DataError
    from limla.files import write_json
    from limla.results import read_predictions

    share = parse_points(margin)
    found = collect(read_predictions(results_dir), read_data_folders(data_dirs))
    known = [evidence.split for evidence in found]
    if split is not None and known and split not in known:
        raise DataError(
            f"{results_dir} holds nothing about split '{split}': choose {' or '.join(sorted(set(known)))}"
        )
    chosen = [evidence for evidence in found if split in (None, evidence.split)]
    rows = [row for evidence in chosen for row in limits(evidence, share)]
    if not rows:
        raise DataError(
            f"{results_dir}: nothing to advise on: no clean, undefended cell of a re-encoded variant"
        )
    there = sorted({row.codec for row in rows})
    rows = [row for row in rows if codec in (None, row.codec)]
    if not rows:
        raise DataError(f"{results_dir} holds nothing about codec '{codec}': choose {' or '.join(there)}")
    for evidence in chosen:
        for note in evidence.notes:
            click.echo(f"note: {note}", err=True)
        if evidence.data is None:
            why = "no --data-dir holds that dataset" if data_dirs else "give its folder as --data-dir"
            click.echo(f"note: bits per pixel of '{evidence.dataset}' are not known: {why}", err=True)
    for row in rows:
        where = f"{row.dataset}, {row.split}: " if len(chosen) > 1 else ""
        click.echo(where + sentence(row))
    table = limit_table(rows)
    if csv_path is not None:
        write_csv(csv_path, table.column_names, (tuple(line.values()) for line in table.to_pylist()))
    if json_path is not None:
        write_json(json_path, table.to_pylist())
