"""`limla train`, also `limla-train`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from limla.cli import TorchrunCommand
from limla.cli.console import ConsoleProgress
from limla.cli.paths import DataFolder, LocalPath

# options by what they are about; --help shows them in these groups
_GROUPS = {
    "Data": (
        "data_dir",
        "codec",
        "quality",
        "random_quality",
        "image_size",
        "resize",
        "loader",
        "augment",
        "workers",
    ),
    "Model": ("model", "weights", "freeze_backbone", "mean", "std"),
    "Training": (
        "epochs",
        "batch_size",
        "learning_rate",
        "patience",
        "min_delta",
        "seed",
        "adversary",
        "device",
        "amp",
    ),
    "Output": ("output_dir", "results_csv", "tensorboard"),
}


class _TrainCommand(TorchrunCommand):
    """Takes --data_dir for --data-dir, and shows its many options in groups."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        extra["token_normalize_func"] = lambda name: name.replace("_", "-")
        return super().make_context(*args, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {item.name: item.get_help_record(ctx) for item in self.get_params(ctx)}
        for title, names in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records.pop(name)) is not None])
        rest = [record for record in records.values() if record is not None]
        with formatter.section("Other"):
            formatter.write_dl(rest)


@click.command("train", short_help="Train a model (also: limla-train).", cls=_TrainCommand)
@click.option(
    "--data-dir",
    required=True,
    type=DataFolder(),
    help="Dataset folder, holding 'source' and '<codec>-q<quality>'.",
)
@click.option("--codec", default="jpeg", show_default=True, help="Codec of the qualities.")
@click.option(
    "--quality",
    default="source",
    show_default=True,
    help="source (the originals), 10, or a mix: 1,10,50-90:10.",
)
@click.option(
    "--random-quality",
    help="A new draw for each image and epoch, by the real codec from the originals: 10-90:10, or 10-90:10,source.",
)
@click.option("--image-size", default=224, show_default=True, help="Side of the model's input in pixels.")
@click.option(
    "--resize",
    type=click.Choice(["crop", "none"]),
    default="crop",
    show_default=True,
    help="crop: resize the shorter side, crop the centre; none: images at their own size.",
)
@click.option("--loader", default="auto", show_default=True, help="auto, cpu, dali or webdataset.")
@click.option("--augment", is_flag=True, help="Random resized crop and flip of training images.")
@click.option("--workers", type=click.IntRange(min=1), help="Decoding threads. [default: all cores]")
@click.option(
    "--model",
    default="MobileNetV2",
    show_default=True,
    help="compact, any torchvision classification model, or your own as package.module:function.",
)
@click.option("--weights", default="none", show_default=True, help="none, imagenet, or a file of weights.")
@click.option("--freeze-backbone", is_flag=True, help="Train the last layer only.")
@click.option("--mean", help="Of the model's first layer, on the [0, 1] scale, e.g. 0.5,0.5,0.5.")
@click.option("--std", help="As --mean. [default: those of the weights, else ImageNet's]")
@click.option("--epochs", default=50, show_default=True, help="At most.")
@click.option("--batch-size", default=32, show_default=True, help="Images per step and process.")
@click.option("--learning-rate", default=0.001, show_default=True, help="Of Adam.")
@click.option(
    "--patience", default=5, show_default=True, help="Epochs without a lower val loss before training stops."
)
@click.option("--min-delta", default=0.0, show_default=True, help="What counts as lower, in nats.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option(
    "--adversary", help="Learn from attacked batches only: pgd:eps=2/255,steps=7,alpha=0.5/255 (Madry et al.)."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--amp", is_flag=True, help="float16 with loss scaling (GPU only).")
@click.option(
    "--output-dir",
    required=True,
    type=LocalPath(file_okay=False),
    help="Where the files go; an unfinished run there is continued.",
)
@click.option(
    "--results-csv",
    type=LocalPath(dir_okay=False),
    help="Table of runs, shared by many. [default: OUTPUT_DIR/results.csv]",
)
@click.option("--tensorboard", is_flag=True, help="Also write events to OUTPUT_DIR/tensorboard.")
def train(**options: Any) -> None:
    """Train a model on a dataset's originals, on one quality, on a mix of qualities, or on random ones.

    Writes best.pt (lowest val loss), last.pt, classes.json, info.json, history.csv and a line of results.csv.
    With --adversary it is the loss of val images under the same attack that counts.
    The same command goes on where an interrupted one stopped. On several GPUs, or machines:
    torchrun --standalone --nproc-per-node 2 -m limla train …
    """
    from limla.cli.options import parse_channels, parse_qualities
    from limla.codecs import codec_scale
    from limla.manifest import SOURCE
    from limla.plans import parse_attack
    from limla.training import TrainSettings
    from limla.training import train as run_training
    from limla.types import Preprocessing
    from limla.world import torchrun_world

    quality, num_threads = options.pop("quality"), options.pop("workers")
    random_quality, adversary = options.pop("random_quality"), options.pop("adversary")
    preprocessing = Preprocessing(options.pop("image_size"), options.pop("resize"))
    mean, std = (parse_channels(options.pop(name), f"--{name}") for name in ("mean", "std"))
    codec = options["codec"]
    scale = codec_scale("jpeg" if codec == SOURCE else codec)
    settings = TrainSettings(
        qualities=parse_qualities(quality, allow_source=True, scale=scale),
        random_qualities=()
        if random_quality is None
        else parse_qualities(random_quality, allow_source=True, scale=scale),
        adversary=None if adversary is None else parse_attack(adversary),
        num_threads=num_threads,
        preprocessing=preprocessing,
        mean=mean,
        std=std,
        **options,
    )
    result = run_training(settings, ConsoleProgress())
    if not torchrun_world("cpu").is_first:
        return
    metrics = result.metrics
    click.echo(f"best epoch {int(metrics['epoch'])} of {result.epochs_run}")
    for part in ("train", "val"):
        names = ("loss", "accuracy", "precision_macro", "recall_macro", "f1_macro")
        click.echo(f"{part:>5}  " + "  ".join(f"{name} {metrics[f'{part}_{name}']:.4f}" for name in names))
    if adversary is not None:
        robust = "  ".join(f"{name} {metrics[f'val_robust_{name}']:.4f}" for name in ("loss", "accuracy"))
        click.echo(f"  val  attacked: {robust}")
    click.echo(f"checkpoint: {result.best_checkpoint}")
    # a model of random qualities is worth a look at all of them
    tests = f"--quality {quality} " if random_quality is None else ""
    if codec not in ("jpeg", SOURCE):
        tests = f"--codec {shlex.quote(codec)} {tests}"
    attacks = "" if adversary is None else f"--attack none --attack {adversary} "
    click.echo(
        f"next: limla evaluate --checkpoint {shlex.quote(str(result.best_checkpoint))} --data-dir "
        f"{shlex.quote(str(settings.data_dir))} {tests}{attacks}--output-dir "
        f"{shlex.quote(str(settings.output_dir / 'results'))}"
    )
