#!/usr/bin/env python3
"""limla against its limits and against what people use today, over the same images: JSON for docs/benchmarks.md.

    python benchmarks/compare.py path/to/photos

Takes the JPEGs whose longer side is 500 pixels or more, repeated up to `--images`. Run it on a quiet machine.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import growth

from limla.benchmarking import checks
from limla.benchmarking.comparisons import (
    DECODE_LIMIT,
    EVALUATE,
    LIMLA_ATTACKS,
    LIMLA_CPU,
    QUALITIES,
    REENCODE_LIMIT,
    REENCODE_SHARED_LIMIT,
    TORCHATTACKS,
    Workplace,
    end_to_end_contenders,
    evaluate_contenders,
    load_contenders,
    reencode_contenders,
    workplace,
)
from limla.benchmarking.data import Photo, photos_of_folder, repeated, write_loose
from limla.benchmarking.harness import Comparison, Contender, as_record, compare
from limla.benchmarking.machine import usable_cores
from limla.cli import LimlaCommand
from limla.cli.console import ConsoleProgress
from limla.errors import BenchmarkError, SettingsError
from limla.files import write_json

RESULTS = Path(__file__).parent / "results"
MIN_SIDE = 500
WEBDATASET_PIL, LIMLA_DALI = "webdataset + PIL + DataLoader", "limla dali"
DALI_AS_DOCUMENTED = "DALI as in its documentation"
_MODEL, _IMAGE_SIZE, _BATCH_SIZE = "mobilenet_v2", 224, 32
_ATTACK_BATCHES = {"clean": 4, "fgsm": 2, "pgd": 1}


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    num_images: int
    num_evaluated: int
    num_small: int
    batch_size: int
    rounds: int
    threads: int


def reencode(place: Workplace, photos: list[Photo], options: Options, progress: ConsoleProgress) -> Comparison:
    """tar → 7 tars."""
    output = place.folder / "peers"
    arguments = {
        "data_dir": str(place.data_dir),
        "output_dir": str(output),
        "qualities": list(QUALITIES),
        "threads": options.threads,
    }
    peers = [
        Contender(
            "webdataset + ShardWriter",
            "peers:webdataset_reencode",
            "multiprocessing pool over the shards, one process per core: wds.WebDataset, simplejpeg, seven "
            "wds.ShardWriter; no hashes, no fsync",
            arguments,
            optional=True,
        ),
        Contender(
            "Pillow to loose files",
            "peers:pillow_reencode",
            "multiprocessing pool over the files, one process per core: Image.open, seven Image.save; no fsync",
            arguments,
            optional=True,
        ),
    ]
    write_loose(place.data_dir, repeated(photos, options.num_images))
    contenders = [*reencode_contenders(place, options.threads), *peers]
    references = [REENCODE_LIMIT, REENCODE_SHARED_LIMIT, *(peer.name for peer in peers)]
    found = compare(
        contenders, references, options.rounds, checks.same_files(REENCODE_LIMIT), progress, "re-encode"
    )
    for folder in (output, *place.data_dir.glob("jpeg-q*")):
        shutil.rmtree(folder)
    return found


def load(place: Workplace, photos: list[Photo], options: Options, progress: ConsoleProgress) -> Comparison:
    """Shards, or loose files, → float32 batches."""
    write_loose(place.data_dir, repeated(photos, options.num_images))
    arguments = {
        "data_dir": str(place.data_dir),
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    first_pass: dict[str, str] = {}  # the same
    workers = "DataLoader with one worker per core"
    peers = [
        Contender(
            "torchvision ImageFolder + PIL + DataLoader",
            "peers:torchvision_folder",
            f"loose files; Resize(256), CenterCrop(224), ToTensor; {workers}",
            arguments,
            first_pass,
            optional=True,
        ),
        Contender(
            WEBDATASET_PIL,
            "peers:webdataset_pil",
            f"decode('pil'), the same transforms, batched in the workers; {workers}",
            arguments,
            first_pass,
            optional=True,
        ),
        Contender(
            "webdataset + simplejpeg + DataLoader",
            "peers:webdataset_simplejpeg",
            f"simplejpeg, torchvision v2 Resize on uint8 tensors, batched in the workers; {workers}",
            arguments,
            first_pass,
            optional=True,
        ),
        Contender(
            DALI_AS_DOCUMENTED,
            "peers:dali_as_documented",
            "on the CPU: readers.webdataset, decoders.image, resize of the whole image, crop_mirror_normalize, "
            "DALIClassificationIterator; one thread per core, everything else by default",
            arguments,
            first_pass,
            optional=True,
        ),
        Contender(
            "SPDL",
            "peers:spdl",
            "spdl.io.load_image_batch in one thread per core; FFmpeg's own decoder and bilinear resize",
            arguments,
            first_pass,
            optional=True,
        ),
    ]
    contenders = [
        *load_contenders(place, options.threads, ("cpu", "dali"), options.batch_size, _IMAGE_SIZE),
        *peers,
    ]
    references = [DECODE_LIMIT, LIMLA_DALI, *(peer.name for peer in peers)]
    return compare(contenders, references, options.rounds, checks.same_pictures(LIMLA_CPU), progress, "load")


def evaluate(place: Workplace, options: Options, progress: ConsoleProgress) -> Comparison:
    """Clean, FGSM, PGD-10."""
    size = min(options.batch_size, options.num_evaluated)
    contenders = evaluate_contenders(place, _MODEL, _IMAGE_SIZE, size, _ATTACK_BATCHES)
    check = checks.same_attacks(LIMLA_ATTACKS, TORCHATTACKS)
    return compare(contenders, [TORCHATTACKS], options.rounds, check, progress, "evaluate")


def end_to_end(place: Workplace, options: Options, progress: ConsoleProgress) -> Comparison:
    """`limla evaluate` as a whole, clean alone and with attacks."""
    contenders = [
        Contender(f"{EVALUATE}, {title}", one.work, one.setup, one.arguments)
        for title, attacks in (("clean", ("none",)), ("clean + FGSM + PGD", ("none", "fgsm", "pgd")))
        for one in end_to_end_contenders(place, _MODEL, _IMAGE_SIZE, options.batch_size, attacks)
    ]
    return compare(contenders, [], min(options.rounds, 3), progress=progress, title="end to end")


BENCHMARKS = ("reencode", "load", "evaluate", "end-to-end", "growth")
_WHAT = {
    "reencode": "tar → 7 JPEG qualities in tars, 4:2:0",
    "load": "shards → float32 batches of 224 × 224 in [0, 1]: shorter side to 256, centre crop",
    "evaluate": "MobileNetV2 on the CPU, float32: clean, FGSM, PGD-10 (eps 8/255, alpha 2/255)",
    "end-to-end": "limla evaluate, from the command's start to its end",
    "growth": "20 times the images: peak memory and time of each stage",
}


def measure(name: str, photos: list[Photo], options: Options, progress: ConsoleProgress) -> dict[str, Any]:
    """What one of `BENCHMARKS` found, as plain values."""
    on_photos: dict[str, Callable[..., Comparison]] = {"reencode": reencode, "load": load}
    on_few: dict[str, Callable[..., Comparison]] = {"evaluate": evaluate, "end-to-end": end_to_end}
    if name in on_photos:
        # at most as many images as packing puts in one, and two shards for each worker of a peer
        shard_samples = max(1, min(1000, options.num_images // (2 * options.threads)))
        with workplace(photos, options.num_images, shard_samples) as place:
            return asdict(on_photos[name](place, photos, options, progress))
    if name in on_few:
        with workplace(photos, options.num_evaluated, options.num_evaluated) as place:
            return asdict(on_few[name](place, options, progress))
    return {"growth": [asdict(row) for row in growth.measure(options.num_small, progress)]}


@click.command(cls=LimlaCommand)
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--only", default=",".join(BENCHMARKS), show_default=True, help="Which benchmarks.")
@click.option("--images", default=1000, show_default=True, help="Photos re-encoded and loaded in a pass.")
@click.option("--evaluated", default=64, show_default=True, help="Photos in an end-to-end pass.")
@click.option("--small", default=50_000, show_default=True, help="Small images of the growth benchmark.")
@click.option("--batch-size", default=_BATCH_SIZE, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Timed passes of each contender, in turn.")
@click.option("--threads", default=usable_cores(), show_default=True)
@click.option(
    "--output-dir", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, show_default=True
)
def main(photos: Path, only: str, output_dir: Path, **sizes: int) -> None:
    """Measure on the photos in PHOTOS; one JSON file per benchmark, written when that is done."""
    chosen = tuple(name.strip() for name in only.split(","))
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        raise SettingsError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(BENCHMARKS)}")
    options = Options(
        sizes["images"],
        sizes["evaluated"],
        sizes["small"],
        sizes["batch_size"],
        sizes["rounds"],
        sizes["threads"],
    )
    found = photos_of_folder(photos, options.num_images, MIN_SIDE)
    shown = "".join(f" --{name.replace('_', '-')} {value}" for name, value in sizes.items())
    settings = {**sizes, "num_distinct_photos": len(found), "min_side": MIN_SIDE}
    progress = ConsoleProgress()
    started = time.monotonic()
    failed: list[str] = []
    for number, name in enumerate(chosen, 1):
        minutes = (time.monotonic() - started) / 60
        progress.say(f"benchmark {number} of {len(chosen)}: {name}; {minutes:.1f} minutes since the start")
        try:
            values = measure(name, found, options, progress)
        except BenchmarkError as error:
            progress.say(f"{name}: {error}")
            failed.append(name)
            continue
        command = f"python benchmarks/compare.py PHOTOS --only {name}{shown}"
        path = output_dir / f"{name}.json"
        write_json(path, as_record(values, _WHAT[name], command, settings))
        click.echo(f"written: {path}")
    if failed:
        raise BenchmarkError(f"not measured, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
