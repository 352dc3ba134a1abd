"""Loading, training and evaluating on an NVIDIA GPU, and how far its decoder is from the CPU's.

    python benchmarks/gpu.py --photos PHOTO_FOLDER --checkpoint best.pt     → benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --images 24 --batch-size 8 --rounds 1 --out /tmp/gpu.json     (a dry run)

Runs from a checkout with PYTHONPATH=. too. Without --photos it draws photo-like images, without --checkpoint the
model is untrained, and the JSON says so. All loaders take turns, `--rounds` times; a loader's first pass, which
builds its pipeline, is not timed.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from limla.benchmarking.data import (
    CLASS_NAMES,
    SPLIT,
    Photo,
    generated_photos,
    photos_of_folder,
    repeated,
    write_shards,
)
from limla.benchmarking.machine import describe_gpu, describe_machine
from limla.evaluation import EvaluateSettings, evaluate
from limla.files import write_json
from limla.loaders.base import Loader, LoaderSettings, open_loader
from limla.loaders.geometry import crop_start, resized_shape
from limla.loaders.source import open_source
from limla.models.base import ModelInfo, build_model
from limla.models.checkpoint import load_checkpoint, save_checkpoint
from limla.tasks.classification import Classification
from limla.training.passes import Learner, Totals, train_pass
from limla.types import Batch, Preprocessing

RESULT = Path(__file__).parent / "results" / "gpu.json"
HARDWARE_SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 1.0)
EPS, STEPS, ALPHA = 8 / 255, 10, 2 / 255
_SHARD_SAMPLES = 512
_COMPARED = 256


@dataclass(frozen=True)
class Bench:
    """What every measurement needs.

    Attributes:
        folder: the variant folder "source", one split of repeated photos.
        first: as `folder`, of the first `_COMPARED` images at most, each once.
    """

    folder: Path
    first: Path
    device: torch.device
    batch_size: int
    rounds: int
    model: str

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def settings(self, **changes: Any) -> LoaderSettings:
        usual = {"batch_size": self.batch_size, "device": str(self.device), "verify_contents": False}
        return LoaderSettings(**{**usual, **changes})

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


class TorchvisionLoader:
    """Decodes each batch by torchvision's `decode_jpeg` (nvJPEG on a GPU), resizes and crops image by image there."""

    decoder = "torchvision"
    class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._source = open_source([folder], SPLIT, verify_contents=False)
        self.num_samples = self._source.num_samples

    def __len__(self) -> int:
        return -(-self.num_samples // self._bench.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        device, size = self._bench.device, self._bench.batch_size
        for start in range(0, self.num_samples, size):
            records = [self._source.read(i) for i in range(start, min(start + size, self.num_samples))]
            encoded = [torch.frombuffer(bytearray(record.image), dtype=torch.uint8) for record in records]
            decoded = torchvision.io.decode_jpeg(encoded, mode=torchvision.io.ImageReadMode.RGB, device=device)
            images = torch.stack([_resized(image, Preprocessing()) for image in decoded])
            labels = torch.tensor([record.label for record in records], device=device)
            yield Batch(tuple(record.key for record in records), images, labels)

    def set_epoch(self, epoch: int) -> None:
        del epoch

    def close(self) -> None:
        self._source.close()


def _resized(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(3, H, W) uint8 → (3, S, S) float32 in [0, 1]: shorter side, antialiased, centre crop, as the loaders do."""
    shape = resized_shape(image.shape[1], image.shape[2], preprocessing.resize_shorter)
    resized = functional.interpolate(
        image[None].float(), shape, mode="bilinear", antialias=True, align_corners=False
    )[0]
    side = preprocessing.image_size
    top, left = (crop_start(length, side) for length in shape)
    return resized[:, top : top + side, left : left + side].round().clamp(0, 255) / 255


def dali_gpu(bench: Bench, folder: Path, share: float) -> Loader:
    """The DALI loader on the bench's device, with a share for the GPU's hardware decoder."""
    from limla.loaders.dali import DaliLoader

    return DaliLoader(open_source([folder], SPLIT, verify_contents=False), bench.settings(), share)


def device_decoders(bench: Bench, folder: Path) -> dict[str, Callable[[], Loader]]:
    """Name → opens a loader that decodes on the bench's device."""
    found: dict[str, Callable[[], Loader]] = {}
    if bench.on_gpu:
        for share in HARDWARE_SHARES:
            found[f"dali-gpu, hw_decoder_load {share:g}"] = lambda share=share: dali_gpu(bench, folder, share)
    else:
        found["dali-cpu"] = lambda: open_loader("dali", [folder], SPLIT, bench.settings())
    found[f"torchvision decode_jpeg on {bench.device.type}"] = lambda: TorchvisionLoader(bench, folder)
    return found


def loaders(bench: Bench) -> dict[str, Callable[[], Loader]]:
    """Name → opens a loader on all images."""
    folder = bench.folder

    def opened(name: str, device: str) -> Callable[[], Loader]:
        return lambda: open_loader(name, [folder], SPLIT, bench.settings(device=device))

    found = device_decoders(bench, folder)
    found["dali-cpu"] = opened("dali", "cpu")
    found["cpu"] = opened("cpu", "cpu")
    if bench.on_gpu:
        found["cpu, copied to the GPU"] = opened("cpu", str(bench.device))
    return found


def measure_loading(bench: Bench) -> list[dict[str, Any]]:
    """Images per second of every loader, in turn."""
    speeds: dict[str, list[float]] = {}
    first_batch: dict[str, float] = {}
    for _, (name, opened) in itertools.product(range(bench.rounds), loaders(bench).items()):
        with closing(opened()) as loader:
            started = time.perf_counter()
            for number, batch in enumerate(loader):
                if number == 0:
                    bench.wait()
                    first_batch.setdefault(name, time.perf_counter() - started)
                del batch
            bench.wait()
            started = time.perf_counter()
            count = sum(len(batch.keys) for batch in loader)
            bench.wait()
            speeds.setdefault(name, []).append(count / (time.perf_counter() - started))
            assert count == loader.num_samples, (name, count)
        click.echo(f"{name:40s} {speeds[name][-1]:10.1f} images/s", err=True)
    return [
        {
            "loader": name,
            "images_per_s": round(statistics.median(found), 1),
            "rounds": [round(one, 1) for one in found],
            "first_batch_s": round(first_batch[name], 3),
        }
        for name, found in speeds.items()
    ]


class _Nchw(Learner):
    """As limla trains, but in torch's default memory layout."""

    def images(self, batch: Batch) -> Tensor:
        return batch.images


def measure_training(bench: Bench) -> list[dict[str, Any]]:
    """Images per second of training with augmentation, the loader included."""
    rows: list[dict[str, Any]] = []
    amps = (False, True) if bench.on_gpu else (False,)
    for amp, channels_last in itertools.product(amps, (False, True)):
        torch.manual_seed(0)
        model = build_model(bench.model, len(CLASS_NAMES)).to(bench.device)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        scaler = torch.amp.GradScaler("cuda") if amp else None
        kind = Learner if channels_last else _Nchw
        learner = kind(model, model, optimizer, Classification(), scaler)
        settings = bench.settings(training=True, augment=True)
        totals = Totals(len(CLASS_NAMES), bench.device)
        speeds: list[float] = []
        name = "dali" if bench.on_gpu else "cpu"
        with closing(open_loader(name, [bench.folder], SPLIT, settings)) as loader:
            for epoch in range(bench.rounds + 1):  # the first one is not counted
                loader.set_epoch(epoch)
                bench.wait()
                started = time.perf_counter()
                train_pass(learner, loader, totals, lambda number: None)
                bench.wait()
                speeds.append(loader.num_samples / (time.perf_counter() - started))
        name = f"{'AMP' if amp else 'float32'}{', channels_last' if channels_last else ''}"
        click.echo(f"training {name:31s} {speeds[-1]:10.1f} images/s", err=True)
        rows.append({"training": name, "images_per_s": round(statistics.median(speeds[1:]), 1)})
    return rows


def measure_evaluation(bench: Bench, scratch: Path) -> list[dict[str, Any]]:
    """`limla evaluate` clean, with FGSM and with PGD-10: images per second, and the share spent waiting for data."""
    checkpoint = scratch / "untrained.pt"
    torch.manual_seed(0)
    model = build_model(bench.model, len(CLASS_NAMES)).eval()
    save_checkpoint(checkpoint, model, ModelInfo(bench.model, len(CLASS_NAMES), CLASS_NAMES, Preprocessing()))
    rows: list[dict[str, Any]] = []
    for attack in ("none", "fgsm", "pgd"):
        found = []
        for number in range(bench.rounds + 1):  # the first one is not counted
            settings = EvaluateSettings(
                data_dir=bench.folder.parent,
                results_dir=scratch / f"{attack}-{number}",
                checkpoints=(checkpoint,),
                attacks=(attack,),
                eps=(EPS,),
                steps=STEPS,
                alpha=ALPHA,
                loader="dali" if bench.on_gpu else "cpu",
                batch_size=bench.batch_size,
                device=str(bench.device),
                verify=False,
                num_pictures=0,
            )
            result = evaluate(settings)
            cell = next(cell for cell in result.cells if cell.condition.attack == attack)
            waiting = cell.seconds_loading / (cell.seconds_loading + result.seconds_computing)
            found.append((cell.num_samples / cell.seconds_computing, waiting, result.seconds_total))
        speed, waiting, total = (statistics.median(column) for column in zip(*found[1:], strict=True))
        click.echo(f"evaluation {attack:29s} {speed:10.1f} images/s, {waiting:.1%} of it waiting", err=True)
        rows.append(
            {
                "attack": attack,
                "images_per_s_of_attack_and_model": round(speed, 1),
                "share_waiting_for_data": round(waiting, 4),
                "seconds_total": round(total, 3),
            }
        )
    return rows


def compare_pixels(bench: Bench, model: nn.Module) -> list[dict[str, Any]]:
    """Each GPU decoder against the cpu loader on the same images, in 8-bit steps, and predictions that flip."""
    with closing(open_loader("cpu", [bench.first], SPLIT, bench.settings(device="cpu"))) as loader:
        reference = torch.cat([batch.images for batch in loader])
    expected = _predictions(bench, model, reference)
    rows = []
    for name, opened in device_decoders(bench, bench.first).items():
        with closing(opened()) as loader:
            images = torch.cat([batch.images.cpu() for batch in loader])
        flipped = int((_predictions(bench, model, images) != expected).sum())
        rows.append(
            {
                "decoder": name,
                "pixels": "model input",
                **_differences(images, reference),
                "predictions_flipped": flipped,
            }
        )
    rows.append({"decoder": "dali", "pixels": "decoded, at their own size", **_own_size(bench)})
    return rows


def _own_size(bench: Bench) -> dict[str, Any]:
    """DALI's decoded pixels against the cpu loader's, before any resize."""
    own = bench.settings(batch_size=1, preprocessing=Preprocessing(resize="none"))
    here = bench.settings(batch_size=1, preprocessing=Preprocessing(resize="none"), device="cpu")
    with (
        closing(open_loader("dali", [bench.first], SPLIT, own)) as dali,
        closing(open_loader("cpu", [bench.first], SPLIT, here)) as cpu,
    ):
        found = [_differences(a.images.cpu(), b.images) for a, b in zip(dali, cpu, strict=True)]
    means, largest = ([row[name] for row in found] for name in ("mean_difference", "largest_difference"))
    return {
        "num_images": len(found),
        "mean_difference": round(statistics.fmean(means), 4),
        "mean_difference_of_the_worst_image": max(means),
        "largest_difference": max(largest),
    }


def _differences(images: Tensor, reference: Tensor) -> dict[str, Any]:
    """|difference| in 8-bit steps."""
    difference = (images - reference).abs().mul(255)
    of_images = difference.mean(dim=(1, 2, 3))
    return {
        "num_images": len(images),
        "mean_difference": round(float(difference.mean()), 4),
        "mean_difference_of_the_worst_image": round(float(of_images.max()), 4),
        "largest_difference": round(float(difference.max()), 2),
    }


@torch.no_grad()
def _predictions(bench: Bench, model: nn.Module, images: Tensor) -> Tensor:
    parts = images.split(bench.batch_size)
    return torch.cat([model(part.to(bench.device)).argmax(dim=1).cpu() for part in parts])


def _photos(folder: Path | None, num_images: int) -> tuple[Sequence[Photo], str]:
    if folder is None:
        return generated_photos(num_images), "drawn, photo-like, 4:2:0 JPEG quality 92"
    photos = photos_of_folder(folder, num_images, min_side=500)
    return photos, f"{len(photos)} photos with a side of 500 pixels or more, repeated"


@click.command()
@click.option(
    "--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A folder of JPEGs."
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A trained model, for the predictions that flip.",
)
@click.option("--images", "num_images", default=4096, show_default=True, help="Images per pass.")
@click.option("--batch-size", default=256, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--model", "model_name", default="MobileNetV2", show_default=True)
@click.option("--device", default="cuda", show_default=True, help="cpu is a dry run.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: benchmarks/results/gpu.json]")
def main(
    photos: Path | None,
    checkpoint: Path | None,
    num_images: int,
    batch_size: int,
    rounds: int,
    model_name: str,
    device: str,
    out: Path | None,
) -> None:
    """Measure a GPU; or, with --device cpu, only try whether this script runs."""
    if device == "cpu" and out is None:
        raise click.UsageError("--device cpu is a dry run and no measurement: name another file with --out")
    if device != "cpu" and not torch.cuda.is_available():
        raise click.UsageError("torch finds no NVIDIA GPU; --device cpu --out FILE is a dry run")
    with tempfile.TemporaryDirectory(prefix="limla-gpu-") as temporary:
        scratch = Path(temporary)
        chosen, origin = _photos(photos, num_images)
        write_shards(scratch / "all", repeated(chosen, num_images), _SHARD_SAMPLES)
        write_shards(scratch / "first", chosen[:_COMPARED], _SHARD_SAMPLES)
        bench = Bench(
            *(scratch / "all" / "source", scratch / "first" / "source"),
            *(torch.device(device), batch_size, rounds, model_name),
        )
        torch.manual_seed(0)
        known = None if checkpoint is None else load_checkpoint(checkpoint)
        loaded = known.model if known else build_model(model_name, len(CLASS_NAMES))
        model = loaded.to(bench.device).eval()
        result = {
            "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}",
            "machine": describe_machine(),
            "gpu": describe_gpu(bench.device),
            "images": {"count": num_images, "batch_size": batch_size, "origin": origin},
            "model": {
                "name": model_name,
                "of_flipped_predictions": f"trained {known.info.model}" if known else f"untrained {model_name}",
            },
            "pixels": compare_pixels(bench, model),
            "loading": measure_loading(bench),
            "training": measure_training(bench),
            "evaluation": measure_evaluation(bench, scratch),
        }
    path = out or RESULT
    write_json(path, result)
    click.echo(f"written: {path}")


if __name__ == "__main__":
    main()
