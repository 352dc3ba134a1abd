"""How far simulated qualities are from real shards: accuracy, predictions and pixels of both, quality by quality."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from limla.analysis.subjects import Subject, subject_order, subjects_of
from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.errors import DataError, SettingsError
from limla.evaluation import EvaluateSettings, evaluate
from limla.files import write_bytes, write_json
from limla.loaders.base import Loader, LoaderSettings, open_loader
from limla.loaders.simulation import Simulation, check_simulation, open_simulation
from limla.manifest import SOURCE, library_versions, read_manifest, variant_name
from limla.models.checkpoint import read_checkpoint
from limla.models.device import choose_device
from limla.paths import AnyPath
from limla.progress import SILENT, Progress
from limla.results import Condition, prediction_path, read_table
from limla.statistics import paired_difference
from limla.types import Preprocessing

_LIBRARIES = ("nvidia-dali-cuda120", "pillow", "simplejpeg", "torch", "torchvision")


@dataclass(frozen=True)
class SimulationSettings:
    """What is compared.

    Attributes:
        data_dir: a dataset's folder, with "source" and the real shards of every quality.
        output_dir: where the rows of both evaluations and the comparison go; rows that are there are kept.
        checkpoints: files that `limla train` wrote. Those that differ in the seed only are compared together.
        qualities: of `codec`; each once.
        simulate: the simulation. The real shards are read by the loader of the same name: the codec alone differs.
        codec: with its own settings.
        split, batch_size, device, verify: as in `EvaluateSettings`.
    """

    data_dir: AnyPath
    output_dir: Path
    checkpoints: tuple[Path, ...]
    qualities: tuple[int, ...]
    simulate: str = "dali"
    codec: str = "jpeg"
    split: str = "test"
    batch_size: int = 32
    device: str = "auto"
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise SettingsError("no model to compare with: name a checkpoint that limla train wrote")
        check_simulation(self.simulate, build_codec(self.codec), self.qualities)


@dataclass(frozen=True)
class PixelDifference:
    """Model inputs of one quality, simulated against real, over all images of the split.

    Attributes:
        quality: of the codec.
        preprocessing: canonical text of resize and crop.
        num_images: compared.
        num_identical: of them equal in every value; their PSNR is infinite and no part of the mean.
        mean_psnr_db, min_psnr_db: of the others, in dB; None where all are identical.
    """

    quality: int
    preprocessing: str
    num_images: int
    num_identical: int
    mean_psnr_db: float | None
    min_psnr_db: float | None


@dataclass(frozen=True)
class SimulationRow:
    """One model at one quality, simulated against real shards.

    Attributes:
        model: its label, with its training condition.
        quality: of the codec.
        num_images, num_seeds: images, and checkpoints that differ in the seed only.
        accuracy_real, accuracy_simulated: means over images and seeds, in [0, 1].
        difference: simulated minus real; low, high: its 95% interval (`limla.statistics.paired_difference`).
        equal_predictions: share of (image, seed) pairs with the same predicted class, in [0, 1].
        num_identical, mean_psnr_db, min_psnr_db: see `PixelDifference`.
    """

    model: str
    quality: int
    num_images: int
    num_seeds: int
    accuracy_real: float
    accuracy_simulated: float
    difference: float
    low: float
    high: float
    equal_predictions: float
    num_identical: int
    mean_psnr_db: float | None
    min_psnr_db: float | None


@dataclass(frozen=True)
class SimulationResult:
    """The comparison, and where it stands as JSON and CSV."""

    rows: tuple[SimulationRow, ...]
    json_path: Path
    csv_path: Path


def compare_simulation(settings: SimulationSettings, progress: Progress = SILENT) -> SimulationResult:
    """Evaluate every checkpoint on real shards and on simulated qualities, and compare them image by image.

    Writes `simulation-<name>.json` and `.csv` under `output_dir`. Rows of either evaluation that are there already are
    used again; an interrupted comparison goes on.

    Raises a `LimlaError` for names and qualities that do not fit, real shards that are missing, that were made with
    other codec settings than those simulated, or that hold other images, and as `limla.evaluation.evaluate` does.
    """
    codec = build_codec(settings.codec)
    usual = EvaluateSettings(
        data_dir=settings.data_dir,
        results_dir=settings.output_dir,
        checkpoints=settings.checkpoints,
        codec=settings.codec,
        qualities=settings.qualities,
        loader=settings.simulate,
        split=settings.split,
        batch_size=settings.batch_size,
        device=settings.device,
        verify=settings.verify,
        num_pictures=0,
    )
    simulated_settings = EvaluateSettings(**{**vars(usual), "simulate": settings.simulate, "loader": "auto"})
    _check_codec(settings, codec)
    progress = _SaidOnce(progress)
    real = [cell.condition for cell in evaluate(usual, progress).cells]
    simulated = [cell.condition for cell in evaluate(simulated_settings, progress).cells]
    sizes = [read_checkpoint(path)[0].preprocessing for path in settings.checkpoints]
    pixels = {
        (found.preprocessing, found.quality): found
        for preprocessing in dict.fromkeys(sizes)
        for found in _compare_pixels(settings, codec, preprocessing, progress)
    }
    rows = tuple(_rows(settings.output_dir, real, simulated, pixels))
    result = SimulationResult(
        rows,
        settings.output_dir / f"simulation-{settings.simulate}.json",
        settings.output_dir / f"simulation-{settings.simulate}.csv",
    )
    _write(result, settings, codec, real + simulated)
    return result


class _SaidOnce(Progress):
    """Says no line a second time: both evaluations have the same to say about a checkpoint."""

    def __init__(self, progress: Progress) -> None:
        self._said: set[str] = set()
        self._say, self.stage = progress.say, progress.stage

    def say(self, message: str) -> None:
        """See `Progress.say`."""
        if message not in self._said:
            self._said.add(message)
            self._say(message)


def _check_codec(settings: SimulationSettings, codec: Codec) -> None:
    """Raise `SettingsError` for real shards whose recorded codec settings are not those that are simulated."""
    for quality in settings.qualities:
        folder = settings.data_dir / variant_name(codec.name, quality)
        made = read_manifest(folder).settings
        for name, value in codec.settings().items():
            if made.get(name, value) != value:
                raise SettingsError(
                    f"{folder}: made with {name} {made[name]!r}, but {value!r} is simulated: they differ by more "
                    "than the simulation; make it again with the codec's own settings"
                )


def _compare_pixels(
    settings: SimulationSettings, codec: Codec, preprocessing: Preprocessing, progress: Progress
) -> list[PixelDifference]:
    """One pass over the originals beside one over the real shards of each quality."""
    loading = LoaderSettings(
        preprocessing=preprocessing,
        batch_size=settings.batch_size,
        device=str(choose_device(settings.device)),
        verify_contents=settings.verify,
    )
    squares: list[list[npt.NDArray[np.float64]]] = [[] for _ in settings.qualities]
    with ExitStack() as stack:
        simulation = stack.enter_context(
            closing(
                open_simulation(
                    settings.simulate,
                    settings.data_dir / SOURCE,
                    settings.split,
                    loading,
                    codec,
                    settings.qualities,
                )
            )
        )
        loaders = [
            stack.enter_context(closing(open_loader(settings.simulate, [folder], settings.split, loading)))
            for folder in (settings.data_dir / variant_name(codec.name, q) for q in settings.qualities)
        ]
        total = simulation.num_samples * len(loaders)
        advance = stack.enter_context(progress.stage(f"pixels of {settings.simulate} and real", total))
        for batch_squares in _mean_squares(simulation, loaders):
            for found, values in zip(squares, batch_squares, strict=True):
                found.append(values)
            advance(sum(map(len, batch_squares)))
    return [
        pixel_difference(quality, preprocessing.describe(), np.concatenate(found))
        for quality, found in zip(settings.qualities, squares, strict=True)
    ]


def _mean_squares(simulation: Simulation, loaders: Sequence[Loader]) -> Iterator[list[npt.NDArray[np.float64]]]:
    """Per tuple of batches, for each quality the (n,) mean squared differences of model inputs."""
    for batches, real in itertools.zip_longest(simulation, zip(*loaders, strict=True)):
        if batches is None or real is None or any(one.keys != batches[0].keys for one in real):
            raise DataError(
                "the real shards hold other images, or in another order, than the originals: make them again with "
                "'limla reencode'"
            )
        yield [
            torch.mean((one.images.double() - other.images.double()) ** 2, dim=(1, 2, 3)).cpu().numpy()
            for one, other in zip(batches, real, strict=True)
        ]


def pixel_difference(
    quality: int, preprocessing: str, mean_squares: npt.NDArray[np.float64]
) -> PixelDifference:
    """Summarise the (N,) mean squared differences of images in [0, 1]: PSNR = 10 · log10(1 / mean square)."""
    different = mean_squares[mean_squares > 0]
    psnr_db = -10 * np.log10(different)
    return PixelDifference(
        quality=quality,
        preprocessing=preprocessing,
        num_images=len(mean_squares),
        num_identical=len(mean_squares) - len(different),
        mean_psnr_db=float(psnr_db.mean()) if len(different) else None,
        min_psnr_db=float(psnr_db.min()) if len(different) else None,
    )


def _rows(
    results_dir: Path,
    real: Sequence[Condition],
    simulated: Sequence[Condition],
    pixels: dict[tuple[str, int], PixelDifference],
) -> Iterator[SimulationRow]:
    """One row per model and quality, in the order of the models and qualities."""
    subject_of = subjects_of([*real, *simulated])
    pairs: dict[tuple[Subject, int], list[tuple[pa.Table, pa.Table]]] = defaultdict(list)
    for one, other in zip(real, simulated, strict=True):
        quality = one.test_quality
        assert quality is not None
        assert (quality, one.checkpoint_id) == (other.test_quality, other.checkpoint_id)
        tables = [read_table(prediction_path(results_dir, condition)) for condition in (one, other)]
        pairs[subject_of[one], quality].append(_aligned(*tables, variant=f"{one.test_codec}-q{quality}"))
    for (subject, quality), of_seeds in sorted(
        pairs.items(), key=lambda item: (subject_order(item[0][0]), item[0][1])
    ):
        correct, predicted = (
            [np.stack([one[side][name].to_numpy() for one in of_seeds]) for side in (0, 1)]
            for name in ("correct", "prediction")
        )
        compared = paired_difference(*correct)
        of_pixels = pixels[subject.preprocessing, quality]
        yield SimulationRow(
            model=subject.label,
            quality=quality,
            num_images=compared.num_images,
            num_seeds=compared.num_seeds,
            accuracy_real=float(correct[0].mean()),
            accuracy_simulated=float(correct[1].mean()),
            difference=compared.difference,
            low=compared.low,
            high=compared.high,
            equal_predictions=float((predicted[0] == predicted[1]).mean()),
            num_identical=of_pixels.num_identical,
            mean_psnr_db=of_pixels.mean_psnr_db,
            min_psnr_db=of_pixels.min_psnr_db,
        )


def _aligned(real: pa.Table, simulated: pa.Table, variant: str) -> tuple[pa.Table, pa.Table]:
    """Both tables in the order of their keys."""
    one, other = (table.sort_by("key") for table in (real, simulated))
    if not one["key"].equals(other["key"]):
        raise DataError(
            f"{variant} holds other images than the originals beside it; make it again with 'limla reencode'"
        )
    return one, other


def _write(
    result: SimulationResult, settings: SimulationSettings, codec: Codec, conditions: Iterable[Condition]
) -> None:
    decoders = sorted({condition.decoder for condition in conditions})
    write_json(
        result.json_path,
        {
            "simulate": settings.simulate,
            "codec": {"name": codec.name, **codec.settings(), "version": codec.version()},
            "split": settings.split,
            "decoders": decoders,
            "versions": library_versions(_LIBRARIES),
            "rows": [asdict(row) for row in result.rows],
        },
    )
    text = io.StringIO()
    names = [item.name for item in fields(SimulationRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in result.rows)
    write_bytes(result.csv_path, text.getvalue().encode())


def psnr_text(value: float | None) -> str:
    """ "43.2" dB to one decimal; "∞" where every image is identical."""
    return "∞" if value is None or math.isinf(value) else f"{value:.1f}"
