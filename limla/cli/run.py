"""`limla run`: pack, re-encode, train at each quality, evaluate, report, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath
from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.study import Study, StudyFile

_FOLDER = LocalPath(file_okay=False)


@click.command("run", short_help="All of it: photos → report, in one command.", cls=LimlaCommand)
@click.argument("study_file", required=False, type=LocalPath())
@click.option(
    "--raw", type=_FOLDER, help="Folder of photos: class folders, or train/val/test with class folders."
)
@click.option("--data-dir", type=DataFolder(), help="Shards of the dataset. [default: shards/<name of RAW>]")
@click.option(
    "--output-dir", type=_FOLDER, help="Models, rows and report. [default: out/<name of the dataset>]"
)
@click.option("--codec", help="Codec, with knobs as in jpeg:subsampling=444. [default: jpeg]")
@click.option("--quality", "qualities", help="Qualities, e.g. 1,5,10-90:10. [default: 1,5,10,50,90]")
@click.option("--model", "models", multiple=True, help="Model to train; may be given several times.")
@click.option("--attack", "attacks", help="Attacks, comma-separated. [default: fgsm,pgd]")
@click.option("--epochs", type=int, help="Epochs at most. [default: 50]")
@click.option("--image-size", type=int, help="Side of the model's input. [default: 224]")
@click.option("--seed", "seeds", type=int, multiple=True, help="Training seed; may be given several times.")
def run(study_file: Path | None, **options: Any) -> None:
    """The train quality × test quality matrix, from a folder of photos to a report.

    Give STUDY_FILE, a TOML file that says everything (see docs/study.md), or options; an option given beside
    a file replaces the file's entry. Run the same command again to go on after an interruption.
    """
    import time

    from limla.running import run as run_study

    study, file = _study(study_file, options)
    started = time.monotonic()
    result = run_study(study, ConsoleProgress(), file)
    for stage, seconds in result.seconds.items():
        click.echo(f"{stage:>9} {seconds:7.1f} s")
    click.echo(f"    total {time.monotonic() - started:7.1f} s")
    click.echo(f"report: {result.report}")


def _study(study_file: Path | None, options: dict[str, Any]) -> tuple[Study, StudyFile]:
    from limla.cli.options import parse_qualities
    from limla.codecs import codec_scale
    from limla.study import StudyFile, read_settings, study_from

    settings, file = read_settings(study_file) if study_file else ({}, StudyFile("options"))
    for name in ("raw", "data_dir", "output_dir", "image_size"):
        if options[name] is not None:
            settings[name] = options[name]
    if options["codec"] is not None:
        settings["codec"] = options["codec"]
    if options["qualities"] is not None:
        codec = settings.get("codec", "jpeg")
        if not isinstance(codec, str):
            raise SettingsError(f"{file.at('codec')}: 'codec' is {codec!r}: expected a name")
        settings["qualities"] = parse_qualities(options["qualities"], scale=codec_scale(codec))
    for name in ("models", "seeds"):
        if options[name]:
            settings[name] = options[name]
    if options["attacks"] is not None:
        attacks = tuple(part.strip() for part in options["attacks"].split(","))
        settings["evaluation"] = _with(settings, "evaluation", attacks=attacks)
    if options["epochs"] is not None:
        settings["training"] = _with(settings, "training", epochs=options["epochs"])
    if "data_dir" not in settings and "datasets" not in settings:
        if "raw" not in settings:
            raise SettingsError(
                "nothing to run: name a study file, or --raw with a folder of photos, or --data-dir with shards"
            )
        if isinstance(settings["raw"], Path):
            settings["data_dir"] = Path("shards") / settings["raw"].resolve().name
    folder: Any = settings.get("data_dir")
    # what else a file may hold there is refused below
    if isinstance(folder, Path) or hasattr(folder, "fs"):
        settings.setdefault("output_dir", Path("out") / folder.resolve().name)
    return study_from(settings, file), file


def _with(settings: dict[str, Any], name: str, **entries: Any) -> Any:
    """A table of the settings with these entries; what is no table stays, to be refused."""
    table = settings.get(name, {})
    return {**table, **entries} if isinstance(table, dict) else table
