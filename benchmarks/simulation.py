#!/usr/bin/env python3
"""What simulated qualities cost, and how far they are from real shards.

    python benchmarks/simulation.py --data-dir shards/flowers --checkpoint out/…/best.pt --work out/simulation

writes benchmarks/results/simulation.json, and from it the tables between the two marks in docs/simulation.md. The data
folder needs "source" and the real shards of all qualities. Costs are processor seconds of a fresh process with all its
threads, imports left out, so that they hold on a busy machine too; contenders take turns, shown are medians.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from tables import machine_line, table

from limla.benchmarking.machine import describe_machine
from limla.cli.console import ConsoleProgress
from limla.files import write_bytes, write_json
from limla.manifest import SOURCE, read_manifest, variant_name
from limla.shards import index_path

ROOT = Path(__file__).parents[1]
MARK = "<!-- made by benchmarks/simulation.py -->"
SIMULATIONS = ("cpu", "dali")
_REENCODE, _SHARDS = "reencode", "shards"


@dataclass(frozen=True)
class Job:
    """What a contender is given.

    Attributes:
        what: "reencode" encodes the split at each quality; "shards cpu" and "shards dali" read the real shards of each
            quality by that loader, one pass each; "simulate cpu" and "simulate dali" make all qualities in one pass.
        checkpoint: whose preprocessing is used.
        with_model: evaluate, with everything that `limla evaluate` does once for a checkpoint; else only make batches.
    """

    what: str
    data_dir: Path
    checkpoint: Path
    with_model: bool
    qualities: tuple[int, ...]
    split: str


def measure(job: Job) -> float:
    """Processor seconds of one contender in this process."""
    import torch

    # threads that wait for work would count
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = _contender(job, Path(folder))
        started = _processor_seconds()
        run()
        return _processor_seconds() - started


def _processor_seconds() -> float:
    """User and system time of this process and of children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _contender(job: Job, folder: Path) -> Callable[[], object]:
    from limla.codecs import build_codec
    from limla.evaluation import EvaluateSettings, evaluate
    from limla.loaders.base import LoaderSettings, open_loader
    from limla.loaders.resizing import load_kernels
    from limla.loaders.simulation import open_simulation
    from limla.models.checkpoint import read_checkpoint
    from limla.reencoding import ReencodeSettings, reencode

    load_kernels()
    codec = build_codec("jpeg")
    what, data_dir, qualities, split = job.what, job.data_dir, job.qualities, job.split
    if what == _REENCODE:
        _copy_split(data_dir, folder / data_dir.name, split)
        settings = ReencodeSettings(qualities=qualities, measure="none")
        return lambda: reencode(folder / data_dir.name, settings)
    kind, name = what.split()
    if job.with_model:
        chosen = EvaluateSettings(
            data_dir=data_dir,
            results_dir=folder,
            checkpoints=(job.checkpoint,),
            qualities=qualities,
            split=split,
            device="cpu",
            num_pictures=0,
            loader=name if kind == _SHARDS else "auto",
            simulate="" if kind == _SHARDS else name,
        )
        return lambda: evaluate(chosen)
    loading = LoaderSettings(read_checkpoint(job.checkpoint)[0].preprocessing)

    def passes() -> None:
        for quality in qualities:
            with closing(
                open_loader(name, [data_dir / variant_name("jpeg", quality)], split, loading)
            ) as loader:
                for _ in loader:
                    pass

    def one_pass() -> None:
        with closing(open_simulation(name, data_dir / SOURCE, split, loading, codec, qualities)) as simulation:
            for _ in simulation:
                pass

    return passes if kind == _SHARDS else one_pass


def _copy_split(data_dir: Path, copy: Path, split: str) -> None:
    """The packed originals with one split only, as links."""
    manifest = read_manifest(data_dir / SOURCE)
    (copy / SOURCE).mkdir(parents=True)
    for shard in manifest.of_split(split):
        for path in (data_dir / SOURCE / shard.name, index_path(data_dir / SOURCE / shard.name)):
            (copy / SOURCE / path.name).symlink_to(path.resolve())
    replace(manifest, shards=manifest.of_split(split)).write(copy / SOURCE)


def costs(
    data_dir: Path, checkpoint: Path, qualities: tuple[int, ...], split: str, rounds: int
) -> list[dict[str, Any]]:
    """Processor seconds of every contender, with and without the model."""
    names = [f"{kind} {name}" for name in SIMULATIONS for kind in (_SHARDS, "simulate")]
    contenders = [(_REENCODE, False), *((name, with_model) for with_model in (False, True) for name in names)]
    jobs = [Job(what, data_dir, checkpoint, with_model, qualities, split) for what, with_model in contenders]
    found: dict[Job, list[float]] = {job: [] for job in jobs}
    spawn = multiprocessing.get_context("spawn")
    for number in range(rounds):
        for job in jobs:
            click.echo(f"round {number + 1}: {job.what}{' with the model' if job.with_model else ''}", err=True)
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                found[job].append(pool.submit(measure, job).result())
    return [
        {
            "what": job.what,
            "with_model": job.with_model,
            "cpu_s": round(statistics.median(seconds), 3),
            "cpu_s_rounds": [round(second, 3) for second in seconds],
        }
        for job, seconds in found.items()
    ]


def compare(
    data_dir: Path, checkpoints: tuple[Path, ...], qualities: tuple[int, ...], split: str, work: Path
) -> dict[str, list[dict[str, Any]]]:
    """Per simulation the rows of `limla simulation`."""
    from limla.simulation import SimulationSettings, compare_simulation

    found: dict[str, list[dict[str, Any]]] = {}
    for name in SIMULATIONS:
        settings = SimulationSettings(
            data_dir=data_dir,
            output_dir=work,
            checkpoints=checkpoints,
            qualities=qualities,
            simulate=name,
            split=split,
            device="cpu",
        )
        found[name] = [asdict(row) for row in compare_simulation(settings, ConsoleProgress()).rows]
    return found


def markdown(data: dict[str, Any]) -> str:
    """The part of docs/simulation.md that holds numbers."""
    return "\n\n".join(
        [
            f"Measured by `{data['command']}` on {data['dataset']}, split {data['split']}, n = {data['num_images']},\n"
            f"{data['model']} of {data['image_size']} px ({machine_line(data)}).",
            *_comparison(data["comparison"]),
            *_costs(data),
        ]
    )


def _comparison(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    exact, near = rows["cpu"], rows["dali"]
    first = [row for row in near if row["model"] == near[0]["model"]]
    equal = sum(row["num_identical"] == row["num_images"] for row in exact)
    same = sum(row["equal_predictions"] == 1 for row in exact)
    excluding = sum(row["low"] > 0 or row["high"] < 0 for row in near) or "none"
    return [
        f"**cpu**: of {len(exact)} comparisons (models × qualities) the models' inputs were identical in every value\n"
        f"in {equal}, and all predictions equal in {same}.",
        f"**dali**: over {len(near)} comparisons the predictions were equal on\n"
        f"{100 * min(row['equal_predictions'] for row in near):.1f}% to "
        f"{100 * max(row['equal_predictions'] for row in near):.1f}% of the images; accuracy differed by\n"
        f"{100 * max(abs(row['difference']) for row in near):.1f} points at most, and the 95% interval of the "
        f"difference left out zero in\n{excluding}. For the model “{first[0]['model']}”:",
        table(
            [
                "quality",
                "real",
                "simulated",
                "difference, points [95%]",
                "equal predictions",
                "PSNR, dB: mean",
                "lowest",
                "identical inputs",
            ],
            [
                [
                    str(row["quality"]),
                    f"{100 * row['accuracy_real']:.1f}%",
                    f"{100 * row['accuracy_simulated']:.1f}%",
                    f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
                    f"{100 * row['equal_predictions']:.1f}%",
                    _db(row["mean_psnr_db"]),
                    _db(row["min_psnr_db"]),
                    f"{row['num_identical']} of {row['num_images']}",
                ]
                for row in first
            ],
        ),
    ]


def _db(value: float | None) -> str:
    return "∞" if value is None else f"{value:.1f}"


def _costs(data: dict[str, Any]) -> list[str]:
    found = {(row["what"], row["with_model"]): row["cpu_s"] for row in data["costs"]}
    once = found[_REENCODE, False]
    numbers = ", ".join(map(str, data["qualities"]))
    lines: list[list[str]] = []
    for name in SIMULATIONS:
        shards, simulated = (
            [found[f"{kind} {name}", with_model] for with_model in (False, True)]
            for kind in (_SHARDS, "simulate")
        )
        lines += [
            [f"{name}: {len(data['qualities'])} passes over real shards", *map(_seconds, shards)],
            ["… and re-encoding these images before", *(_seconds(seconds + once) for seconds in shards)],
            [f"{name}: 1 simulated pass", *map(_seconds, simulated)],
        ]
    return [
        f"Processor seconds for these {data['num_images']} images at the qualities {numbers}, median of "
        f"{data['rounds']}\nrounds (re-encoding alone: {_seconds(once)}). With the model they include what "
        "`limla evaluate` does once for a checkpoint.",
        table(["", "images only", "with the model"], lines),
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def write_page(data: dict[str, Any], page: Path) -> None:
    """Put the numbers between the two marks of `page`."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    write_bytes(page, f"{before}{MARK}\n\n{markdown(data)}\n\n{MARK}{after}".encode())


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--checkpoint", "checkpoints", multiple=True, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Rows; used again when there.")
@click.option("--quality", "qualities", multiple=True, type=int, default=(1, 5, 10, 50, 90), show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/simulation.json")
@click.option("--page", type=click.Path(path_type=Path, exists=True), default=ROOT / "docs/simulation.md")
def main(
    data_dir: Path,
    checkpoints: tuple[Path, ...],
    work: Path,
    qualities: tuple[int, ...],
    split: str,
    rounds: int,
    output: Path,
    page: Path,
) -> None:
    """Compare and time, and write the JSON and the tables; the first checkpoint is the one that is timed and shown."""
    from limla.models.checkpoint import read_checkpoint

    comparison = compare(data_dir, checkpoints, qualities, split, work)
    info, _, _ = read_checkpoint(checkpoints[0])
    data = {
        "command": "python benchmarks/simulation.py",
        "model": info.model,
        "image_size": info.preprocessing.image_size,
        "machine": describe_machine(),
        "dataset": data_dir.resolve().name,
        "split": split,
        "num_images": read_manifest(data_dir / SOURCE).num_samples(split),
        "qualities": list(qualities),
        "rounds": rounds,
        "comparison": comparison,
        "costs": costs(data_dir, checkpoints[0], qualities, split, rounds),
    }
    write_json(output, data)
    write_page(json.loads(output.read_text(encoding="utf-8")), page)
    click.echo(f"written: {output}, and the tables in {page}")


if __name__ == "__main__":
    main()
