"""Images per second of every loader on photos of about 500×375, in one interleaved run.

    python benchmarks/load.py PHOTO_FOLDER [--out benchmarks/results/load.json]

Packs the JPEGs of PHOTO_FOLDER whose longer side is 500 pixels or more into temporary shards, repeated up to
`--images`, and reads them to (32, 3, 224, 224) float32 batches. One pass of each in turn, `--rounds` times;
medians and ratios, since other work may share the machine. Each pass runs in a process of its own, so that
peak memory (its worker processes added) and the time to the first batch are its own.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import PIL.Image
from machine import describe_machine

from limla.files import write_json
from limla.loaders.base import LoaderSettings, open_loader
from limla.manifest import Manifest, read_manifest
from limla.shards import ShardReader, open_shard, shard_name

BATCH_SIZE = 32
SHARD_SAMPLES = 250


def write_photos(photos: Path, folder: Path, num_images: int) -> float:
    """Write a variant folder of the large photos; returns their mean size in megapixels."""
    paths = []
    pixels = 0
    for path in sorted(photos.rglob("*.jpg")):
        with PIL.Image.open(path) as picture:
            if max(picture.size) >= 500:
                paths.append((path, picture.height, picture.width))
                pixels += picture.height * picture.width
    if not paths:
        raise click.ClickException(f"no JPEG with a side of 500 or more under {photos}")
    entries = []
    numbered = list(enumerate(itertools.islice(itertools.cycle(paths), num_images)))
    for shard, start in enumerate(range(0, num_images, SHARD_SAMPLES)):
        samples = numbered[start : start + SHARD_SAMPLES]
        name = shard_name("test", shard)
        with open_shard(folder / name) as writer:
            for number, (path, height, width) in samples:
                key = f"photo{number:06d}"
                metadata = json.dumps({"key": key, "height": height, "width": width}).encode()
                writer.add(key, {"jpg": path.read_bytes(), "cls": b"0", "json": metadata})
        entries.append(writer.entry(name, "test"))
    Manifest("photos", "source", None, ("photo",), tuple(entries), {}, {}).write(folder)
    return pixels / len(paths) / 1e6


def decode_only(folder: Path, threads: int) -> Iterator[int]:
    """The limit: simplejpeg on every image, from memory, nothing else. Yields images done."""
    import simplejpeg

    readers = [ShardReader(folder / shard.name) for shard in read_manifest(folder).of_split("test")]
    data = [bytes(reader.sample(number).image) for reader in readers for number in range(len(reader))]
    for reader in readers:
        reader.close()
    yield 0

    def decode(jpeg: bytes) -> int:
        simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=False)
        return 1

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode, data)


def of_limla(name: str) -> Callable[[Path, int], Iterator[int]]:
    """A limla loader by name."""

    def run(folder: Path, threads: int) -> Iterator[int]:
        settings = LoaderSettings(batch_size=BATCH_SIZE, num_threads=threads, verify_contents=False)
        with closing(open_loader(name, [folder], "test", settings)) as loader:
            yield 0
            for batch in loader:
                yield len(batch.keys)

    return run


def webdataset_pil(folder: Path, threads: int) -> Iterator[int]:
    """What people write today: webdataset, Pillow, torchvision, DataLoader processes that split the shards."""
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    urls = [str(folder / shard.name) for shard in read_manifest(folder).of_split("test")]
    web_dataset: Any = vars(webdataset)["WebDataset"]
    dataset = (
        web_dataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg", "cls")
        .map_tuple(lambda key: key, transform, lambda label: label)
        .batched(BATCH_SIZE)
    )
    yield 0
    for _, images, _ in DataLoader(dataset, batch_size=None, num_workers=threads):
        yield len(images)


CONTESTANTS: dict[str, Callable[[Path, int], Iterator[int]]] = {
    "decode-only limit": decode_only,
    "cpu": of_limla("cpu"),
    "dali-cpu": of_limla("dali"),
    "webdataset + PIL + DataLoader": webdataset_pil,
}


def measure(name: str, folder: Path, threads: int) -> dict[str, float]:
    """One pass: images per second, seconds to the first batch, peak memory in MiB with child processes."""
    images = 0
    first_s = 0.0
    steps = CONTESTANTS[name](folder, threads)
    next(steps)  # imports and opening are not loading
    start = time.perf_counter()
    for count in steps:
        first_s = first_s or time.perf_counter() - start
        images += count
    total_s = time.perf_counter() - start
    own, children = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    # ru_maxrss of children is that of the largest one
    peak_mib = (own + children * (threads if "DataLoader" in name else 0)) / 1024
    return {
        "num_images": images,
        "images_per_s": images / total_s,
        "first_batch_s": first_s,
        "peak_memory_mib": peak_mib,
    }


def in_own_process(name: str, folder: Path, threads: int) -> dict[str, float]:
    """`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, "--measure", name, "--threads", str(threads), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians, and the median over rounds of each contestant's speed over the references'."""
    rows: dict[str, dict[str, float]] = {}
    for name, passes in runs.items():
        row = {key: statistics.median(one[key] for one in passes) for key in passes[0]}
        for reference in ("decode-only limit", "webdataset + PIL + DataLoader", "dali-cpu"):
            row[f"speed over {reference}"] = statistics.median(
                one["images_per_s"] / other["images_per_s"]
                for one, other in zip(passes, runs[reference], strict=True)
            )
        rows[name] = {key: round(value, 3) for key, value in row.items()}
    return rows


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/load.json"))
@click.option("--images", default=1000, show_default=True, help="Images per pass.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--measure", "measured", type=click.Choice(list(CONTESTANTS)), hidden=True)
def main(folder: Path, out: Path, images: int, rounds: int, threads: int, measured: str | None) -> None:
    """Measure all loaders on the photos in FOLDER."""
    if measured:
        click.echo(json.dumps(measure(measured, folder, threads)))
        return
    with tempfile.TemporaryDirectory(prefix="limla-bench-") as temporary:
        megapixels = write_photos(folder, Path(temporary), images)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for number, name in itertools.product(range(rounds), CONTESTANTS):
            runs[name].append(in_own_process(name, Path(temporary), threads))
            speed = runs[name][-1]["images_per_s"]
            click.echo(f"round {number + 1}/{rounds}  {name:32s} {speed:8.1f} images/s", err=True)
    rows = summary(runs)
    result = {
        "command": f"python benchmarks/load.py PHOTOS --images {images} --rounds {rounds} --threads {threads}",
        "machine": describe_machine(),
        "threads": threads,
        "images": {"count": images, "mean_megapixels": round(megapixels, 3), "batch_size": BATCH_SIZE},
        "rows": rows,
        "rounds": runs,
    }
    write_json(out, result)
    for name, row in rows.items():
        click.echo(
            f"{name:32s} {row['images_per_s']:8.1f} images/s  {row['speed over decode-only limit']:5.2f} of the limit  "
            f"{row['speed over webdataset + PIL + DataLoader']:5.2f}× webdataset  "
            f"first batch {row['first_batch_s']:.2f} s  {row['peak_memory_mib']:.0f} MiB"
        )


if __name__ == "__main__":
    main()
