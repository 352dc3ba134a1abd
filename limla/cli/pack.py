"""`limla pack`: a folder of photos → source shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.cli.engines import ENGINE_HELP, MASTER_HELP, WORKERS_HELP
from limla.cli.paths import LocalPath

if TYPE_CHECKING:
    from limla.packing import PackResult


@click.command("pack", short_help="Photos in class folders → source shards.", cls=LimlaCommand)
@click.argument("folder", metavar="IN", type=LocalPath())
@click.argument("data_dir", metavar="OUT")
@click.option("--train", default=0.8, show_default=True, help="Share of each class for training.")
@click.option("--val", default=0.1, show_default=True, help="Share of each class for validation.")
@click.option("--test", default=0.1, show_default=True, help="Share of each class for the test.")
@click.option(
    "--val-from-train", default=0.0, help="Share of train to make val: for IN/train and IN/test only."
)
@click.option("--seed", default=0, show_default=True, help="Of the split and the order.")
@click.option(
    "--shard-mb", default=256.0, show_default=True, help="Size of a shard in MiB, by the photos' files."
)
@click.option("--shard-images", default=1000, show_default=True, help="Images in a shard at most.")
@click.option("--max-pixels", type=int, help="A picture with more is not decoded. [default: 178956970]")
@click.option(
    "--profiles",
    type=click.Choice(["keep", "convert"]),
    default="keep",
    show_default=True,
    help="Colour profiles that are not sRGB: keep the bytes, or convert the pixels (stored as PNG).",
)
@click.option("--workers", type=int, help=WORKERS_HELP)
@click.option("--engine", default="local", show_default=True, help=ENGINE_HELP)
@click.option("--master", help=MASTER_HELP)
def pack(
    folder: Path,
    data_dir: str,
    train: float,
    val: float,
    test: float,
    val_from_train: float,
    seed: int,
    shard_mb: float,
    shard_images: int,
    max_pixels: int | None,
    profiles: Literal["keep", "convert"],
    workers: int | None,
    engine: str,
    master: str | None,
) -> None:
    """Pack the photos in IN into shards in OUT/source.

    IN holds class folders (IN/cat/…, IN/dog/…), or is split already (IN/train/cat/…, IN/val/…, IN/test/…).
    JPEG, PNG, BMP, TIFF and WebP. Files that cannot be decoded are listed in OUT/source/quarantine.jsonl.
    Interrupted, it goes on where it stopped when run again. OUT may be a URL, as s3://bucket/photos.
    """
    from limla.engines import build_engine
    from limla.errors import SettingsError
    from limla.packing import PackSettings
    from limla.packing import pack as run
    from limla.packing.settings import MAX_PIXELS
    from limla.paths import open_folder

    if not 0 < shard_mb < 1 << 20:
        raise SettingsError(f"--shard-mb {shard_mb}: choose a size above 0, in MiB")
    settings = PackSettings(
        seed=seed,
        train=train,
        val=val,
        test=test,
        val_from_train=val_from_train,
        max_shard_bytes=max(1, round(shard_mb * (1 << 20))),
        max_shard_samples=shard_images,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        profiles=profiles,
        workers=workers,
        engine=engine,
    )
    progress = ConsoleProgress()
    engine_there = build_engine(engine, workers, master, progress)
    _show(run(folder, open_folder(data_dir), settings, progress, engine_there))


def _show(result: PackResult) -> None:
    from limla.pictures.policies import PROFILE_NOTE

    manifest = result.manifest
    splits = ", ".join(f"{split} {manifest.num_samples(split)}" for split in manifest.splits())
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    click.echo(
        f"{result.folder}: {result.packed} images of {len(manifest.class_names)} classes ({splits}), "
        f"{len(manifest.shards)} shards, {num_bytes / 1e6:.1f} MB"
    )
    if result.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(result.skipped.items()))
        click.echo(f"skipped {sum(result.skipped.values())}: {reasons}")
    counts = manifest.summary["audit"]["all"]
    if counts["converted"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["converted"].items())
        click.echo(f"converted to upright 8-bit sRGB PNG: {reasons}")
    if num_profiles := manifest.summary["audit"]["notes"].get(PROFILE_NOTE):
        click.echo(
            f"{num_profiles} carry an {PROFILE_NOTE}: their bytes are kept and read as sRGB, as decoders do; "
            "--profiles convert turns them into sRGB"
        )
    if counts["jpeg_quality_median"] is not None:
        samplings = ", ".join(f"{name} {count}" for name, count in counts["jpeg_subsampling"].items())
        click.echo(f"JPEG history: median quality {counts['jpeg_quality_median']:g}; subsampling {samplings}")
