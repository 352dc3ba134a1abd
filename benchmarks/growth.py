"""Does a stage's memory grow with the number of images, and its time faster than linearly?

Small generated JPEGs, so that many of them take little time: what a stage keeps per image shows all the more. Each
stage runs on 1/20, on half and on all of the images, in fresh processes whose memory is sampled. A stage rests when it
is done, so that what it holds in the end is sampled however short it was.

What stays per image, by design, is under 60 bytes, its name included. Packing keeps each photo's path, size, key and
class (16 bytes and the path), then 21 bytes for finding copies; evaluation keeps the rows of the cells that are under
way (21 bytes and the key each); training keeps the shards' indexes (36 bytes and the key) and the epoch's order (8).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from limla.benchmarking.data import natural_image
from limla.benchmarking.folders import temporary_folder
from limla.benchmarking.harness import Contender, ContenderRow, compare
from limla.benchmarking.passes import Steps
from limla.benchmarking.stages import make_checkpoint
from limla.errors import SettingsError
from limla.manifest import SOURCE
from limla.progress import Progress

FACTOR = 20
SIDE = 64
QUALITIES = (10, 50)
SPLIT = "train"
_REST_S = 1.5
_CANVAS = 96
_NUM_CANVASES = 256
_NUM_CLASSES = 10
_OFFSETS = _CANVAS - SIDE + 1


def write_small_images(folder: Path, num_images: int) -> None:
    """Write `num_images` different 64×64 JPEGs in ten class folders; equal in every run.

    Each is another window of one of 256 larger pictures, of which there are 278,784.
    """
    from limla.codecs.jpeg import JpegCodec

    assert num_images <= _NUM_CANVASES * _OFFSETS**2
    codec = JpegCodec()
    canvases = [natural_image(_CANVAS, _CANVAS, number) for number in range(min(_NUM_CANVASES, num_images))]
    for number in range(_NUM_CLASSES):
        (folder / f"class{number}").mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        place, canvas = divmod(number, _NUM_CANVASES)
        top, left = divmod(place, _OFFSETS)
        window = canvases[canvas][top : top + SIDE, left : left + SIDE]
        path = folder / f"class{number % _NUM_CLASSES}" / f"small{number:06d}.jpg"
        path.write_bytes(codec.encode(window, 85))


def pack_stage(photos: str, data_dir: str, check: bool) -> Steps:
    """`limla pack`."""
    from limla.packing import pack

    del check
    yield 0
    yield "pack", pack(Path(photos), Path(data_dir)).packed
    time.sleep(_REST_S)
    return {}


def reencode_stage(data_dir: str, check: bool) -> Steps:
    """`limla reencode` at two qualities, PSNR and SSIM of 256 images as by default."""
    from limla.reencoding import ReencodeSettings, reencode

    del check
    settings = ReencodeSettings(qualities=QUALITIES)
    yield 0
    yield "reencode", reencode(Path(data_dir), settings).num_images
    time.sleep(_REST_S)
    return {}


def load_stage(data_dir: str, check: bool) -> Steps:
    """One pass of the `cpu` loader over the train split, SHA-256 on."""
    import torch  # noqa: F401 - imports are not loading

    from limla.loaders.base import LoaderSettings, open_loader
    from limla.types import Preprocessing

    del check
    settings = LoaderSettings(Preprocessing(image_size=SIDE))
    yield 0
    with closing(open_loader("cpu", [Path(data_dir) / SOURCE], SPLIT, settings)) as loader:
        for batch in loader:
            yield "load", len(batch.keys)
        time.sleep(_REST_S)
    return {}


def evaluate_stage(data_dir: str, results_dir: str, check: bool) -> Steps:
    """`limla evaluate` of the compact model on the train split, clean."""
    from limla.evaluation import EvaluateSettings, evaluate
    from limla.models.memory import keep_large_activations

    del check
    keep_large_activations()
    checkpoint = Path(data_dir) / "compact.pt"
    make_checkpoint(checkpoint, Path(data_dir), "compact", SIDE, SPLIT)
    settings = EvaluateSettings(
        data_dir=Path(data_dir), results_dir=Path(results_dir), checkpoints=(checkpoint,), split=SPLIT
    )
    yield 0
    yield "evaluate", sum(cell.num_samples for cell in evaluate(settings).cells)
    time.sleep(_REST_S)
    return {}


@dataclass(frozen=True)
class GrowthRow:
    """One stage on 1/20, half and all of the images, each a column of three values.

    Memory is in MB (10^6 bytes), see `limla.benchmarking.memory.Memory`; None where the kernel does not tell.

    Attributes:
        seconds: wall-clock time, imports and the rest at the end excluded.
        time_growth: processor seconds per image of the second half over those from 1/20 to the half: 1 is linear
            growth. Of the wall clock it would be noise wherever something else runs.
        peak_memory_mb: everything resident, mapped shards included; `peak_memory_ratio` is of all to 1/20.
        private_mb: what the kernel cannot drop; `private_bytes_per_image` is its growth from 1/20 to all.
    """

    stage: str
    num_images: tuple[int, ...]
    seconds: tuple[float, ...]
    time_growth: float
    peak_memory_mb: tuple[float | None, ...]
    peak_memory_ratio: float | None
    private_mb: tuple[float | None, ...]
    private_bytes_per_image: float | None


def measure(num_images: int, progress: Progress) -> list[GrowthRow]:
    """Every stage on a twentieth, half and all of `num_images` (at least 200) small images."""
    fewest = FACTOR * _NUM_CLASSES
    if num_images < fewest:
        raise SettingsError(f"{num_images} small images are too few to see growth: choose at least {fewest}")
    sizes = (num_images // FACTOR, num_images // 2, num_images)
    _measure_one(_NUM_CLASSES, progress)  # what is compiled once on a machine is not a stage's time
    found = [_measure_one(number, progress) for number in sizes]
    return [_growth(rows) for rows in zip(*found, strict=True)]


def _measure_one(num_images: int, progress: Progress) -> Sequence[ContenderRow]:
    with temporary_folder() as folder:
        photos, data_dir, results = (str(folder / name) for name in ("photos", "small", "results"))
        progress.say(f"generating {num_images} images of {SIDE} × {SIDE} pixels")
        write_small_images(Path(photos), num_images)
        of_stage: dict[str, dict[str, str]] = {
            "pack": {"photos": photos, "data_dir": data_dir},
            "reencode": {"data_dir": data_dir},
            "load": {"data_dir": data_dir},
            "evaluate": {"data_dir": data_dir, "results_dir": results},
        }
        contenders = [
            Contender(stage, f"growth:{stage}_stage", "", arguments) for stage, arguments in of_stage.items()
        ]
        return compare(contenders, [], 0, progress=progress, title=f"{num_images} images").contenders


def _growth(rows: Sequence[ContenderRow]) -> GrowthRow:
    numbers = [row.num_images for row in rows]
    seconds = [row.num_images / row.images_per_s - _REST_S for row in rows]
    work = [row.num_images * row.cpu_ms_per_image for row in rows]
    early, late = ((work[end] - work[end - 1]) / (numbers[end] - numbers[end - 1]) for end in (1, 2))
    peaks = [row.peak_memory_mb for row in rows]
    private = [row.peak_private_mb for row in rows]
    ratio = per_image = None
    if peaks[0] is not None and peaks[-1] is not None:
        ratio = peaks[-1] / peaks[0]
    if private[0] is not None and private[-1] is not None:
        per_image = 1e6 * (private[-1] - private[0]) / (numbers[-1] - numbers[0])
    return GrowthRow(
        stage=rows[0].contender,
        num_images=tuple(numbers),
        seconds=tuple(seconds),
        time_growth=late / early,
        peak_memory_mb=tuple(peaks),
        peak_memory_ratio=ratio,
        private_mb=tuple(private),
        private_bytes_per_image=per_image,
    )
