"""The comparisons of `limla bench`: each stage of limla against its limit or against what it replaces.

`benchmarks/` adds the peers that people use to the same comparisons, over the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from limla.benchmarking import checks
from limla.benchmarking.data import (
    Photo,
    generated_photos,
    photos_of_folder,
    photos_of_shards,
    repeated,
    write_shards,
)
from limla.benchmarking.folders import temporary_folder
from limla.benchmarking.harness import Comparison, Contender, compare
from limla.benchmarking.machine import usable_cores
from limla.errors import SettingsError
from limla.paths import AnyPath
from limla.progress import SILENT, Progress
from limla.registry import LOADERS

STAGES = ("reencode", "load", "evaluate", "end-to-end")
QUALITIES = (1, 5, 10, 20, 50, 75, 90)
REENCODE_LIMIT, REENCODE = "in-memory limit", "limla reencode"
REENCODE_SHARED_LIMIT = "in-memory limit, colours converted once"
DECODE_LIMIT, LIMLA_CPU = "decode-only limit", "limla cpu"
TORCHATTACKS, LIMLA_ATTACKS = "torchattacks, eager model", "limla"
EVALUATE = "limla evaluate"
_STAGES_MODULE = "limla.benchmarking.stages"
_LOADER_SETUP = {
    "cpu": "the cpu loader, one thread per core",
    "dali": "DALI's pipeline on the CPU, one thread per core",
    "webdataset": "limla's reference loader: webdataset, Pillow, DataLoader with one worker per core",
}


@dataclass(frozen=True)
class Workplace:
    """A temporary folder with the images packed as shards; it goes when the benchmarks are over.

    Attributes:
        folder: of everything.
        num_images: in the shards.
        num_distinct: of these, how many differ; the others repeat them.
    """

    folder: Path
    num_images: int
    num_distinct: int

    @property
    def data_dir(self) -> Path:
        """The dataset that is measured on."""
        return self.folder / "photos"

    def checkpoint(self, model: str, image_size: int) -> Path:
        """A checkpoint of `model`, made when first asked for."""
        from limla.benchmarking.stages import make_checkpoint

        path = self.folder / f"{model}-{image_size}.pt"
        if not path.exists():
            make_checkpoint(path, self.data_dir, model, image_size)
        return path


@contextmanager
def workplace(photos: Sequence[Photo], num_images: int, shard_samples: int) -> Iterator[Workplace]:
    """Pack `num_images` images (the photos, repeated if need be) into a temporary folder."""
    if num_images < 1:
        raise SettingsError(f"{num_images} images: choose at least 1")
    with temporary_folder() as folder:
        place = Workplace(folder, num_images, min(len(photos), num_images))
        write_shards(place.data_dir, repeated(photos, num_images), shard_samples)
        yield place


def reencode_contenders(place: Workplace, threads: int) -> list[Contender]:
    """The codec alone, by simplejpeg's RGB interface and as limla calls it, and the stage."""
    arguments = {"data_dir": str(place.data_dir), "qualities": list(QUALITIES), "threads": threads}
    return [
        Contender(
            REENCODE_LIMIT,
            f"{_STAGES_MODULE}:reencode_limit",
            "one decode and seven encodes of RGB per image by simplejpeg, from memory, one thread per core, no I/O",
            arguments,
        ),
        Contender(
            REENCODE_SHARED_LIMIT,
            f"{_STAGES_MODULE}:reencode_limit",
            "the same with limla's codec, which converts RGB to YCbCr once instead of seven times",
            arguments | {"shared": True},
        ),
        Contender(
            REENCODE,
            f"{_STAGES_MODULE}:limla_reencode",
            "tar to seven tars with indexes and rows; SHA-256 of what is read and written, fsync; PSNR off",
            arguments,
        ),
    ]


def load_contenders(
    place: Workplace, threads: int, loaders: Sequence[str], batch_size: int, image_size: int
) -> list[Contender]:
    """Decoding alone, and limla's loaders."""
    arguments = {"data_dir": str(place.data_dir), "threads": threads}
    first_pass: dict[str, str] = {}  # the same
    limit = Contender(
        DECODE_LIMIT,
        f"{_STAGES_MODULE}:decode_limit",
        "simplejpeg on every image from memory, one thread per core; no resize, no batches",
        arguments,
        first_pass,
    )
    return [
        limit,
        *(
            Contender(
                f"limla {name}",
                f"{_STAGES_MODULE}:limla_loader",
                f"{_LOADER_SETUP.get(name, name)}; SHA-256 of the shards off",
                arguments | {"loader": name, "batch_size": batch_size, "image_size": image_size},
                first_pass,
            )
            for name in loaders
        ),
    ]


def evaluate_contenders(
    place: Workplace, model: str, image_size: int, batch_size: int, batches: Mapping[str, int]
) -> list[Contender]:
    """torchattacks as its README shows it, and limla; `batches` says how many of each attack ("clean" too)."""
    arguments = {
        "data_dir": str(place.data_dir),
        "checkpoint": str(place.checkpoint(model, image_size)),
        "batches": dict(batches),
        "batch_size": batch_size,
        "place": str(place.folder),
    }
    # a step of FGSM is a step of PGD: the same shapes, once forward and once back
    warm_up = {"batches": {"clean": 1, "fgsm": 1}}
    return [
        Contender(
            TORCHATTACKS,
            f"{_STAGES_MODULE}:attack_with_torchattacks",
            "torchattacks' own FGSM and PGD on the eager float32 model in torch's default layout (NCHW)",
            arguments,
            warm_up,
        ),
        Contender(
            LIMLA_ATTACKS,
            f"{_STAGES_MODULE}:attack_with_limla",
            "limla's attacks on its prepared copy of the same model, float32, as limla evaluate runs them",
            arguments,
            warm_up,
        ),
    ]


def end_to_end_contenders(
    place: Workplace, model: str, image_size: int, batch_size: int, attacks: Sequence[str]
) -> list[Contender]:
    """`limla evaluate` as a command."""
    arguments = {
        "data_dir": str(place.data_dir),
        "checkpoint": str(place.checkpoint(model, image_size)),
        "attacks": list(attacks),
        "batch_size": batch_size,
        "place": str(place.folder),
    }
    setup = f"limla evaluate --attack {','.join(attacks)} of one checkpoint, SHA-256 of the shards on"
    return [Contender(EVALUATE, f"{_STAGES_MODULE}:limla_evaluate", setup, arguments)]


@dataclass(frozen=True)
class BenchSettings:
    """What `limla bench` measures.

    Attributes:
        stages: some of `STAGES`.
        photos: a folder of JPEGs; None for none.
        min_side: leave out photos whose longer side is shorter, in pixels; speeds depend on it.
        data_dir: a packed dataset, here or in an object store, whose originals are used; None for none. Without
            either, photos are generated.
        num_images: images that are re-encoded and loaded, the first ones, repeated if there are fewer.
        rounds: timed passes of each contender.
        model: evaluated, untrained (its speed does not depend on its weights).
        image_size: side of the loaders' images and the model's input in pixels, at least 32.
        batch_size: images per batch.
        num_attacked: images of the attack and end-to-end measurements, at most `num_images`.
        threads: None means one for each usable core.
    """

    stages: tuple[str, ...] = STAGES
    photos: Path | None = None
    min_side: int = 0
    data_dir: AnyPath | None = None
    num_images: int = 256
    rounds: int = 3
    model: str = "mobilenet_v2"
    image_size: int = 224
    batch_size: int = 32
    num_attacked: int = 8
    threads: int = field(default_factory=usable_cores)

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise SettingsError(f"unknown stage '{stage}'; known: {', '.join(STAGES)}")
        if self.photos is not None and self.data_dir is not None:
            raise SettingsError("--photos and --data-dir: name one of them, or neither for generated photos")
        if self.min_side and self.photos is None:
            raise SettingsError("min side chooses among the files of a folder: name it (photos)")
        for name in ("num_images", "rounds", "image_size", "batch_size", "num_attacked", "threads"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name.replace('_', ' ')} is {getattr(self, name)}: choose at least 1")
        if self.image_size < 32:
            raise SettingsError(f"image size {self.image_size} is out of range: choose at least 32")

    def read_photos(self) -> list[Photo]:
        """The images that are asked for; raises `DataError` where there are none."""
        if self.photos is not None:
            return photos_of_folder(self.photos, self.num_images, self.min_side)
        if self.data_dir is not None:
            return photos_of_shards(self.data_dir, self.num_images)
        return generated_photos(self.num_images)


def bench(
    settings: BenchSettings,
    progress: Progress = SILENT,
    show: Callable[[str, Comparison], object] = lambda stage, found: None,
) -> dict[str, Comparison]:
    """Measure the stages on this machine; stage → what was found, also given to `show` when that stage is done.

    Raises `LimlaError` when there are no images, a contender fails, or contenders did not do the same work.
    """
    if {"evaluate", "end-to-end"} & set(settings.stages):
        from limla.models.base import canonical_name  # brings torch, which the other stages do without

        canonical_name(settings.model)
    found: dict[str, Comparison] = {}
    photos = settings.read_photos()
    shard_samples = max(1, settings.num_images // 4)
    with workplace(photos, settings.num_images, shard_samples) as place:
        for stage in settings.stages:
            if stage in ("reencode", "load"):
                found[stage] = _bench_data(stage, settings, place, progress)
                show(stage, found[stage])
    num_attacked = min(settings.num_attacked, settings.num_images)
    with workplace(photos, num_attacked, num_attacked) as place:
        for stage in settings.stages:
            if stage in ("evaluate", "end-to-end"):
                found[stage] = _bench_model(stage, settings, place, progress)
                show(stage, found[stage])
    return found


def _bench_data(stage: str, settings: BenchSettings, place: Workplace, progress: Progress) -> Comparison:
    if stage == "reencode":
        contenders = reencode_contenders(place, settings.threads)
        check = checks.same_files(REENCODE_LIMIT)
        return compare(contenders, [REENCODE_LIMIT], settings.rounds, check, progress, stage)
    contenders = load_contenders(
        place, settings.threads, LOADERS.names(), settings.batch_size, settings.image_size
    )
    check = checks.same_pictures(LIMLA_CPU)
    return compare(contenders, [DECODE_LIMIT], settings.rounds, check, progress, stage)


def _bench_model(stage: str, settings: BenchSettings, place: Workplace, progress: Progress) -> Comparison:
    model, image_size = settings.model, settings.image_size
    batch_size = min(settings.batch_size, place.num_images)
    if stage == "evaluate":
        batches = {"clean": 4, "fgsm": 2, "pgd": 1}
        contenders = evaluate_contenders(place, model, image_size, batch_size, batches)
        check = checks.same_attacks(LIMLA_ATTACKS, TORCHATTACKS)
        return compare(contenders, [TORCHATTACKS], settings.rounds, check, progress, stage)
    contenders = end_to_end_contenders(place, model, image_size, batch_size, ("none", "fgsm", "pgd"))
    # one pass: a command of a minute is compared with nothing, only split up
    return compare(contenders, [], 0, progress=progress, title=stage)
