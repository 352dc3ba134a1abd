"""`limla evaluate`: trained models on every test quality, with and without attacks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limla.cli import TorchrunCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath
from limla.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

    from limla.evaluation import EvaluateResult, EvaluateSettings, UserModel
    from limla.plans import AttackPlan
    from limla.results import Condition

_FILE = LocalPath()
_FOLDER = LocalPath(file_okay=False)


@click.command(
    "evaluate",
    short_help="Models × qualities × attacks → rows.",
    cls=TorchrunCommand,
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=_FILE,
    help="A best.pt of limla train; may be given several times.",
)
@click.option("--data-dir", type=DataFolder(), required=True, help="Shards of the dataset.")
@click.option("--quality", help="Test qualities, e.g. source,1,5,10-90:10. [default: all that are there]")
@click.option("--codec", default="jpeg", show_default=True, help="Codec of the test qualities.")
@click.option(
    "--simulate",
    default="",
    help="cpu or dali: make the test qualities of the originals, in one pass, without shards.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    help="Attacks, e.g. fgsm,pgd, or one with parameters: pgd:eps=2/255,norm=l2; may be repeated. [default: none]",
)
@click.option(
    "--defence",
    "defences",
    multiple=True,
    help="Codec between attack and model: jpeg:10,50 (two defences), jpeg:10+50 (draws one); may be repeated.",
)
@click.option("--threat", help="What attackers know of a defence, e.g. static,bpda. [default: static]")
@click.option("--eps", help="Largest change per value on the [0, 1] scale, or several. [default: 8/255]")
@click.option("--steps", type=int, help="Gradient steps of pgd. [default: 10]")
@click.option("--alpha", help="Length of a step of pgd on the [0, 1] scale. [default: 2.5 eps / steps]")
@click.option("--output-dir", type=_FOLDER, required=True, help="Where the rows go.")
@click.option("--model", help="A model of your own, package.module:function.")
@click.option("--weights", type=_FILE, help="With --model: its state dict.")
@click.option(
    "--mean", help="With --weights: channel means it was trained with. [default: the file's, else ImageNet's]"
)
@click.option("--std", help="With --weights: channel deviations it was trained with. [default: as --mean]")
@click.option("--image-size", type=int, help="With --weights: side of its input. [default: 224]")
@click.option(
    "--resize",
    type=click.Choice(["crop", "none"]),
    help="With --weights: none takes images at their own size. [default: crop]",
)
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--loader", default="auto", show_default=True, help="auto, cpu, dali or webdataset.")
@click.option("--batch-size", default=32, show_default=True, help="Part of the condition.")
@click.option("--seed", default=0, show_default=True, help="Of the attacks' random starts.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0.")
@click.option(
    "--precision", default="float32", show_default=True, help="float32; bfloat16 for clean passes only."
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the shards' SHA-256.")
def evaluate(data_dir: Path, output_dir: Path, **options: Any) -> None:
    """Accuracy and robust accuracy of trained models on each test quality.

    Writes one Parquet file of rows per model, test quality and attack under OUTPUT_DIR; run the same command
    again to go on after an interruption. Attacks need eps as in 8/255. On several GPUs, or machines:
    torchrun --standalone --nproc-per-node 2 -m limla evaluate … (the same files, byte for byte).
    """
    from limla.evaluation import evaluate as evaluate_grid
    from limla.models.memory import keep_large_activations
    from limla.world import torchrun_world

    settings = _settings(data_dir, output_dir, options)
    keep_large_activations()
    result = evaluate_grid(settings, ConsoleProgress())
    if not torchrun_world("cpu").is_first:
        return
    _show(result)
    click.echo(f"rows: {output_dir / 'predictions'}")
    if settings.simulate:
        click.echo(
            "next: limla simulation, with the same models and qualities, compares these rows with real shards'"
        )
        return
    click.echo(f"next: limla report {output_dir} --data-dir {data_dir} --output {output_dir / 'report.html'}")


def _settings(data_dir: Path, output_dir: Path, options: dict[str, Any]) -> EvaluateSettings:
    from limla.cli.options import parse_number, parse_qualities
    from limla.codecs import codec_name, codec_scale
    from limla.evaluation import EvaluateSettings, check_parameters_used
    from limla.manifest import list_variants, parse_variant
    from limla.plans import parse_defences

    attacks = tuple(plan for text in options["attacks"] or ("none",) for plan in _attack_plans(text))
    names = tuple(plan.name for plan in attacks)
    check_parameters_used(names, options["eps"], options["steps"], options["alpha"])
    if options["threat"] is not None and not options["defences"]:
        raise SettingsError("--threat is given, but no --defence: name one, as in --defence jpeg:10,50")
    if options["threat"] is not None and {plan.name for plan in attacks} <= {"none"}:
        raise SettingsError("--threat is given, but no attack: name one, as in --attack pgd --eps 1/255")
    threats = tuple(name.strip() for name in (options["threat"] or "static").split(","))
    defences = tuple(plan for text in options["defences"] for plan in parse_defences(text, threats))
    codec, name = options["codec"], codec_name(options["codec"])
    if options["quality"] is None and options["simulate"]:
        raise SettingsError(
            "--simulate needs --quality, the qualities to simulate: --quality source,1,5,10-90:10"
        )
    if options["quality"] is None:
        there = [parse_variant(name) for name in list_variants(data_dir)]
        qualities = tuple(number for there_name, number in there if number is None or there_name == name)
    else:
        scale = codec_scale(codec)
        qualities = parse_qualities(options["quality"], allow_source=True, scale=scale)
    given: dict[str, Any] = {}
    if options["eps"] is not None:
        given["eps"] = tuple(parse_number(part.strip()) for part in options["eps"].split(","))
    if options["alpha"] is not None:
        given["alpha"] = parse_number(options["alpha"])
    return EvaluateSettings(
        data_dir=data_dir,
        results_dir=output_dir,
        checkpoints=options["checkpoints"],
        user_model=_user_model(options),
        own_model=options["model"] if options["weights"] is None else None,
        codec=codec,
        qualities=qualities or (None,),
        attacks=attacks,
        defences=defences,
        steps=options["steps"],
        **given,
        **{
            name: options[name]
            for name in ("simulate", "split", "loader", "batch_size", "seed", "device", "precision", "verify")
        },
    )


def _attack_plans(text: str) -> list[AttackPlan]:
    """ "fgsm,pgd" are two attacks, "pgd:eps=2/255,steps=20" is one."""
    from limla.plans import parse_attack

    return [parse_attack(part) for part in ([text] if ":" in text else text.split(","))]


def _user_model(options: dict[str, Any]) -> UserModel | None:
    from limla.cli.options import parse_channels
    from limla.evaluation import UserModel
    from limla.types import Preprocessing

    about_weights = ("mean", "std", "image_size", "resize")
    stray = [f"--{name.replace('_', '-')}" for name in about_weights if options[name] is not None]
    if stray and options["weights"] is None:
        raise SettingsError(
            f"{', '.join(stray)} says how a model of your own was trained: add --model and --weights; a "
            "checkpoint of limla train knows it itself"
        )
    if options["model"] is None:
        if options["weights"] is not None:
            raise SettingsError("--weights needs --model package.module:function, the model they belong to")
        return None
    if options["weights"] is None:
        if options["checkpoints"]:
            return None  # a checkpoint of the user's own model
        raise SettingsError("--model needs --weights FILE, the state dict of the trained model")
    return UserModel(
        spec=options["model"],
        weights=options["weights"],
        preprocessing=Preprocessing(
            image_size=224 if options["image_size"] is None else options["image_size"],
            resize=options["resize"] or "crop",
        ),
        mean=parse_channels(options["mean"], "--mean"),
        std=parse_channels(options["std"], "--std"),
    )


_COLUMNS = ("accuracy", "robust_accuracy", "attack_success_rate", "targeted_success_rate")


def _show(result: EvaluateResult) -> None:
    """One line per cell: what it is, and its rates with their 95% intervals, computed from the rows."""
    from limla.analysis.subjects import attacks_of
    from limla.reporting.aggregates import metric_rows
    from limla.results import prediction_path, read_table

    conditions = [cell.condition for cell in result.cells]
    tables = [
        (condition, read_table(prediction_path(result.results_dir, condition))) for condition in conditions
    ]
    rates = {
        (row.condition, row.metric): f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        for row in metric_rows(tables)
        if row.metric in _COLUMNS and row.ci_low is not None and row.ci_high is not None
    }
    attacks = attacks_of(conditions)
    known = {metric for _, metric in rates}
    columns = [column for column in _COLUMNS if column in known or column != "targeted_success_rate"]
    has_defences = any(condition.defence_codec for condition in conditions)
    has_seeds = len({condition.seed for condition in conditions}) > 1
    about = ("defence", "threat") if has_defences else ()
    lines: list[tuple[str, ...]] = [
        (
            "model (trained on)",
            *(("seed",) if has_seeds else ()),
            "test",
            "attack",
            *about,
            "n",
            *columns,
            "images/s",
        )
    ]
    for cell in result.cells:
        condition = cell.condition
        test = (
            "source" if condition.test_quality is None else f"{condition.test_codec} {condition.test_quality}"
        )
        test += f" (simulated: {condition.simulation})" if condition.simulation else ""
        lines.append(
            (
                f"{condition.model} ({_training(condition)})",
                *((str(condition.seed),) if has_seeds else ()),
                test,
                condition.attack if attacks[condition].is_none else attacks[condition].label,
                *((_defence(condition), condition.threat) if has_defences else ()),
                str(cell.num_samples),
                *(rates.get((condition, column), "") for column in columns),
                f"{cell.images_per_s:.1f}" if cell.computed else "kept",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    _show_masking(tables)


def _show_masking(tables: list[tuple[Condition, pa.Table]]) -> None:
    """A line for each sign of gradient masking, and one that counts the checks; nothing without attacks."""
    from limla.analysis.masking import breaches, masking_checks
    from limla.analysis.pairs import collect

    checks = [check for evidence in collect(tables, {}) for check in masking_checks(evidence)]
    for check in breaches(checks):
        click.echo(f"warning: {check.sentence}")
    if checks:
        counts = Counter(check.verdict for check in checks)
        click.echo(
            f"checks for gradient masking: {counts['holds']} hold, {counts['breached']} breached, "
            f"{counts['not tested']} not tested (the report says which, and what to run)"
        )


def _training(condition: Condition) -> str:
    """ "source", "1+10", "webp 10", "source, pgd linf eps=8/255 steps=7 alpha=2/255"."""
    from limla.analysis.subjects import method_text

    method = condition.train_method
    is_plain = condition.train_codec in ("jpeg", "source", "unknown", "")
    on = condition.train_quality if is_plain else f"{condition.train_codec} {condition.train_quality}"
    return on + ("" if method == "standard" else f", {method_text(method)}")


def _defence(condition: Condition) -> str:
    return f"{condition.defence_codec} {condition.defence_quality}" if condition.defence_codec else "none"
