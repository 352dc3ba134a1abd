"""What a training run is told and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from limla.errors import SettingsError
from limla.manifest import SOURCE, variant_name
from limla.paths import AnyPath
from limla.registry import CODECS, LOADERS
from limla.types import Preprocessing


@dataclass(frozen=True)
class TrainSettings:
    """The options of `limla-train`.

    Attributes:
        data_dir: dataset folder, holding "source" and "<codec>-q<quality>".
        output_dir: where the run's files go; an unfinished run there is continued.
        codec: of the qualities.
        qualities: to train on; None is the originals; several are a mix, each image once per quality.
        model: see `limla.models.base.canonical_name`.
        epochs: at most, at least 1.
        batch_size: images per step and process, at least 1.
        learning_rate: of Adam, above 0.
        patience: epochs without a lower validation loss before training stops, at least 1.
        min_delta: by how much, in nats, the validation loss must fall to count for `patience`; best.pt is the
            lowest loss whatever this is.
        seed: of initial weights, shuffling, augmentation and dropout.
        weights: "none", "imagenet" or a file.
        freeze_backbone: train the last layer only; frozen batch norms keep their statistics.
        mean, std: of the model's first layer; None means those of the weights, else ImageNet's.
        preprocessing: resize and crop.
        loader: see `limla.loaders.base.open_loader`.
        augment: random resized crop and flip of training images.
        device: "auto", "cpu", "cuda", "cuda:1".
        amp: float16 with loss scaling; GPU only.
        num_threads: decoding threads; None is all cores.
        tensorboard: also write events to `output_dir/tensorboard`.
        results_csv: table to which a finished run adds its line; None is `output_dir/results.csv`.
    """

    data_dir: AnyPath
    output_dir: Path
    codec: str = "jpeg"
    qualities: tuple[int | None, ...] = (None,)
    model: str = "MobileNetV2"
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    patience: int = 5
    min_delta: float = 0.0
    seed: int = 0
    weights: str | Path = "none"
    freeze_backbone: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    loader: str = "auto"
    augment: bool = False
    device: str = "auto"
    amp: bool = False
    num_threads: int | None = None
    tensorboard: bool = False
    results_csv: Path | None = None

    def __post_init__(self) -> None:
        for name, value, lowest in (
            ("epochs", self.epochs, 1),
            ("batch size", self.batch_size, 1),
            ("patience", self.patience, 1),
            ("min-delta", self.min_delta, 0),
            ("seed", self.seed, 0),
        ):
            if not value >= lowest:
                raise SettingsError(f"{name} {value} is out of range: choose at least {lowest}")
        if not 0 < self.learning_rate < float("inf"):
            raise SettingsError(f"learning rate {self.learning_rate} is out of range: choose a number above 0")
        if not self.qualities:
            raise SettingsError("no quality to train on: choose source, a quality, or a list of them")
        if len(set(self.qualities)) < len(self.qualities):
            raise SettingsError(f"a quality is named twice: {self.train_quality}")
        if self.codec != SOURCE:
            CODECS.check(self.codec)
        elif self.qualities != (None,):
            raise SettingsError("codec 'source' has no qualities: name the codec, e.g. jpeg")
        if self.loader != "auto":
            LOADERS.check(self.loader)

    @property
    def train_codec(self) -> str:
        """As conditions record it: "source" when only the originals are trained on."""
        return SOURCE if self.qualities == (None,) else self.codec

    @property
    def train_quality(self) -> str:
        """As conditions record it: "source", "10", "1+10+50", "source+10"."""
        return "+".join(SOURCE if quality is None else str(quality) for quality in self.qualities)

    def folders(self) -> list[AnyPath]:
        """The variant folders to train on."""
        return [
            self.data_dir / (SOURCE if quality is None else variant_name(self.codec, quality))
            for quality in self.qualities
        ]


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives back.

    Attributes:
        best_checkpoint: `best.pt`, the weights with the lowest validation loss.
        metrics: of that epoch: "epoch", and "train_" and "val_" loss (nats), accuracy, precision_macro,
            recall_macro, f1_macro.
        epochs_run: epochs trained until the run stopped.
    """

    best_checkpoint: Path
    metrics: dict[str, float]
    epochs_run: int
