"""Does a stage's memory grow with the number of images, and its time faster than linearly?

Small generated JPEGs, so that many of them take little time: what a stage keeps per image shows all the more. Each
stage runs once on 1/20 of the images and once on all of them, in fresh processes whose memory is sampled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from limla.benchmarking.data import natural_image
from limla.benchmarking.harness import Contender, ContenderRow, compare
from limla.benchmarking.passes import Steps
from limla.benchmarking.stages import make_checkpoint
from limla.manifest import SOURCE
from limla.progress import Progress

FACTOR = 20
SIDE = 64
QUALITIES = (10, 50)
SPLIT = "train"
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
    return {}


def reencode_stage(data_dir: str, check: bool) -> Steps:
    """`limla reencode` at two qualities, PSNR and SSIM of 256 images as by default."""
    from limla.reencoding import ReencodeSettings, reencode

    del check
    settings = ReencodeSettings(qualities=QUALITIES)
    yield 0
    yield "re-encode", reencode(Path(data_dir), settings).num_images
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
    return {}


def evaluate_stage(data_dir: str, results_dir: str, check: bool) -> Steps:
    """`limla evaluate` of the compact model on the train split, clean."""
    from limla.evaluation import EvaluateSettings, evaluate
    from limla.models.memory import keep_large_activations

    del check
    keep_large_activations()
    checkpoint = Path(data_dir) / "compact.pt"
    make_checkpoint(checkpoint, Path(data_dir), "compact", SIDE)
    settings = EvaluateSettings(
        data_dir=Path(data_dir), results_dir=Path(results_dir), checkpoints=(checkpoint,), split=SPLIT
    )
    yield 0
    yield "evaluate", sum(cell.num_samples for cell in evaluate(settings).cells)
    return {}


@dataclass(frozen=True)
class GrowthRow:
    """One stage on few and on many images; memory in MB (10^6 bytes), see `limla.benchmarking.memory.Memory`.

    Attributes:
        num_few, num_many: images.
        seconds_few, seconds_many: wall-clock time, imports excluded.
        seconds_ratio: of an image's time among many to its time among few; 1 is linear growth.
        peak_memory_mb_few, …_many, peak_memory_ratio: everything resident, mapped shards included.
        private_mb_few, …_many: what cannot be dropped.
        private_bytes_per_image: growth of the latter for each image more.
    """

    stage: str
    num_few: int
    num_many: int
    seconds_few: float
    seconds_many: float
    seconds_ratio: float
    peak_memory_mb_few: float | None
    peak_memory_mb_many: float | None
    peak_memory_ratio: float | None
    private_mb_few: float | None
    private_mb_many: float | None
    private_bytes_per_image: float | None


def measure(num_images: int, progress: Progress) -> list[GrowthRow]:
    """Every stage on `num_images` // 20 and on `num_images` small images."""
    few = _measure_one(max(_NUM_CLASSES * 2, num_images // FACTOR), progress)
    many = _measure_one(num_images, progress)
    return [_growth(*pair) for pair in zip(few, many, strict=True)]


def _measure_one(num_images: int, progress: Progress) -> Sequence[ContenderRow]:
    with tempfile.TemporaryDirectory(prefix="limla-growth-") as folder:
        photos, data_dir, results = (str(Path(folder) / name) for name in ("photos", "small", "results"))
        progress.say(f"generating {num_images} images of {SIDE} × {SIDE} pixels")
        write_small_images(Path(photos), num_images)
        contenders = [
            Contender("pack", "growth:pack_stage", "", {"photos": photos, "data_dir": data_dir}),
            Contender("re-encode", "growth:reencode_stage", "", {"data_dir": data_dir}),
            Contender("load", "growth:load_stage", "", {"data_dir": data_dir}),
            Contender("evaluate", "growth:evaluate_stage", "", {"data_dir": data_dir, "results_dir": results}),
        ]
        return compare(contenders, [], 0, progress=progress, title=f"{num_images} images").contenders


def _growth(few: ContenderRow, many: ContenderRow) -> GrowthRow:
    seconds = [row.num_images / row.images_per_s for row in (few, many)]
    more = many.num_images - few.num_images
    ratio = per_image = None
    if few.peak_memory_mb and many.peak_memory_mb:
        ratio = many.peak_memory_mb / few.peak_memory_mb
    if few.peak_private_mb is not None and many.peak_private_mb is not None:
        per_image = 1e6 * (many.peak_private_mb - few.peak_private_mb) / more
    return GrowthRow(
        stage=few.contender,
        num_few=few.num_images,
        num_many=many.num_images,
        seconds_few=seconds[0],
        seconds_many=seconds[1],
        seconds_ratio=few.images_per_s / many.images_per_s,
        peak_memory_mb_few=few.peak_memory_mb,
        peak_memory_mb_many=many.peak_memory_mb,
        peak_memory_ratio=ratio,
        private_mb_few=few.peak_private_mb,
        private_mb_many=many.peak_private_mb,
        private_bytes_per_image=per_image,
    )
