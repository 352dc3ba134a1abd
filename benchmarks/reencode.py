#!/usr/bin/env python3
"""How near `limla reencode` comes to the limit of this machine: one decode and seven encodes, nothing else.

The limit holds the images in memory and runs the codec in a tight loop, one thread for each core: no tar, no
hash, no row, no disk. Both run in fresh processes, in turn, over the same images.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from machine import describe_machine

QUALITIES = (1, 5, 10, 20, 50, 75, 90)
SHARD_BYTES = 64 << 20


def pack_large(photos: Path, data_dir: Path, num_images: int, min_side: int) -> int:
    """Source shards of the JPEGs under `photos` with a side of at least `min_side`, repeated to `num_images`."""
    from PIL import Image

    from limla.manifest import SOURCE, Manifest
    from limla.shards import ShardEntry, open_shard, shard_name

    chosen: list[tuple[Path, int, int]] = []
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(path) as picture:
            if max(picture.size) >= min_side:
                chosen.append((path, picture.height, picture.width))
    if not chosen:
        raise click.ClickException(f"{photos}: no JPEG with a side of at least {min_side} pixels")
    entries: list[ShardEntry] = []
    number = 0
    while number < num_images:
        name = shard_name("train", len(entries))
        with open_shard(data_dir / SOURCE / name) as writer:
            while number < num_images and writer.num_bytes < SHARD_BYTES:
                path, height, width = chosen[number % len(chosen)]
                key = f"train/all/{number:07d}"
                metadata = {"key": key, "height": height, "width": width, "class_name": "all"}
                members = {"jpg": path.read_bytes(), "cls": b"0", "json": json.dumps(metadata).encode()}
                writer.add(key, members)
                number += 1
        entries.append(writer.entry(name, "train"))
    Manifest("bench", SOURCE, None, ("all",), tuple(entries), {}, {}).write(data_dir / SOURCE)
    return len(chosen)


def run_limit(data_dir: Path) -> dict[str, float]:
    """The codec alone."""
    from limla.codecs.jpeg import JpegCodec
    from limla.engines.local import usable_cores
    from limla.shards import ShardReader

    images: list[bytes] = []
    for path in sorted((data_dir / "source").glob("*.tar")):
        with ShardReader(path) as reader:
            images += [bytes(sample.image) for sample in reader]
    codec = JpegCodec()
    num_threads = usable_cores()

    def loop(first: int) -> None:
        for data in images[first::num_threads]:
            image = codec.decode(data)
            for quality in QUALITIES:
                codec.encode(image, quality)

    threads = [threading.Thread(target=loop, args=(first,)) for first in range(num_threads)]
    with stopwatch(len(images)) as found:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def run_reencode(data_dir: Path) -> dict[str, float]:
    """The whole stage, from source tars to finished folders."""
    from limla.manifest import read_manifest
    from limla.reencoding import ReencodeSettings, reencode

    for folder in data_dir.glob("jpeg-q*"):
        shutil.rmtree(folder)
    settings = ReencodeSettings(qualities=QUALITIES, measure="none")
    with stopwatch(read_manifest(data_dir / "source").num_samples()) as found:
        reencode(data_dir, settings)
    return found


@contextmanager
def stopwatch(num_images: int) -> Iterator[dict[str, float]]:
    """Fill in what the block took: images per second, processor time per image, peak memory of the process."""
    found: dict[str, float] = {}
    started, cpu_started = time.perf_counter(), time.process_time()
    yield found
    found["images_per_s"] = num_images / (time.perf_counter() - started)
    found["cpu_ms_per_image"] = 1000 * (time.process_time() - cpu_started) / num_images
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_fresh_process(part: str, data_dir: Path) -> dict[str, float]:
    """Run one part alone; returns its speed and the peak of its resident memory."""
    command = [sys.executable, __file__, "--part", part, "--data-dir", str(data_dir)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(data_dir: Path, repeats: int) -> dict[str, Any]:
    """Limit and stage in turn; medians, and the ratio of each pair."""
    runs: dict[str, list[dict[str, float]]] = {"limit": [], "reencode": []}
    for repeat in range(repeats):
        for part, found in runs.items():
            found.append(in_fresh_process(part, data_dir))
            click.echo(f"{repeat + 1}/{repeats} {part}: {found[-1]['images_per_s']:.1f} images/s", err=True)
    limit, reencode = ([run["images_per_s"] for run in runs[part]] for part in ("limit", "reencode"))
    ratios = [ours / theirs for ours, theirs in zip(reencode, limit, strict=True)]
    work = {part: statistics.median(run["cpu_ms_per_image"] for run in runs[part]) for part in runs}
    return {
        "limit_images_per_s": statistics.median(limit),
        "reencode_images_per_s": statistics.median(reencode),
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        # processor time does not feel what else the machine does, as wall-clock time does
        "limit_cpu_ms_per_image": work["limit"],
        "reencode_cpu_ms_per_image": work["reencode"],
        "cpu_ratio": work["limit"] / work["reencode"],
        "reencode_peak_mb": max(run["peak_mb"] for run in runs["reencode"]),
    }


@click.command()
@click.option(
    "--photos", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of JPEGs."
)
@click.option("--images", "num_images", default=2000, show_default=True, help="Images, repeated if needed.")
@click.option("--min-side", default=500, show_default=True, help="Take photos with a side of at least this.")
@click.option("--repeats", default=5, show_default=True, help="Pairs of runs.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results/reencode.json"
)
@click.option("--part", hidden=True)
@click.option("--data-dir", type=click.Path(path_type=Path), hidden=True)
def main(
    photos: Path | None,
    num_images: int,
    min_side: int,
    repeats: int,
    output: Path,
    part: str | None,
    data_dir: Path | None,
) -> None:
    """Measure `limla reencode` against the codec alone, in turn, and write the medians."""
    if part and data_dir:
        click.echo(json.dumps(run_limit(data_dir) if part == "limit" else run_reencode(data_dir)))
        return
    if photos is None:
        raise click.UsageError("name a folder of photos: --photos FOLDER")
    from limla.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        num_distinct = pack_large(photos, Path(folder), num_images, min_side)
        measured = compare(Path(folder), repeats)
    result = {
        "what": "tar → 7 qualities in tars, --measure none, against decode + 7 encodes in memory",
        "command": f"python benchmarks/reencode.py --photos FOLDER --images {num_images} --repeats {repeats}",
        "machine": describe_machine(),
        "qualities": QUALITIES,
        "num_images": num_images,
        "num_distinct_images": num_distinct,
        **measured,
    }
    write_json(output, result)
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
