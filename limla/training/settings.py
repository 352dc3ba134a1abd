"""What a training run is told and what it gives back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limla.codecs import codec_label, codec_name, codec_scale
from limla.errors import SettingsError
from limla.manifest import SOURCE, variant_name
from limla.paths import AnyPath
from limla.plans import NO_ATTACK, AttackPlan, Parameter
from limla.registry import LOADERS
from limla.types import Preprocessing

STANDARD = "standard"
"""The `train_method` of a run without random qualities or an adversary."""


@dataclass(frozen=True)
class TrainSettings:
    """The options of `limla-train`.

    Attributes:
        data_dir: dataset folder, holding "source" and "<codec>-q<quality>".
        output_dir: where the run's files go; an unfinished run there is continued.
        codec: of the qualities; its knobs, as in "jpeg:subsampling=444", are for random qualities.
        qualities: to train on; None is the originals; several are a mix, each image once per quality.
        random_qualities: at least two, or none: each time an original is trained on, it goes through the codec at
            one of these, drawn with equal probability (None: as it is); kept sorted. Without `qualities`.
        adversary: each training batch is attacked by this, against the model as it then is, before the model
            learns from it (Madry et al., ICLR 2018). The attack runs in float32 and eval mode.
        model: see `limla.models.base.canonical_name`.
        epochs: at most, at least 1.
        batch_size: images per step and process, at least 1.
        learning_rate: of Adam, above 0.
        patience: epochs without a lower validation loss before training stops, at least 1.
        min_delta: by how much, in nats, the validation loss must fall to count for `patience`; best.pt is the
            lowest loss whatever this is.
        seed: of initial weights, shuffling, augmentation, dropout, drawn qualities and the adversary's random starts.
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
    random_qualities: tuple[int | None, ...] = ()
    adversary: AttackPlan | None = None
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
            codec_name(self.codec)
        elif self.qualities != (None,):
            raise SettingsError("codec 'source' has no qualities: name the codec, e.g. jpeg")
        if self.loader != "auto":
            LOADERS.check(self.loader)
        if self.random_qualities:
            self._check_random_qualities()
        if self.adversary is not None:
            _check_adversary(self.adversary)

    def _check_random_qualities(self) -> None:
        named = quality_text(self.random_qualities)
        if self.codec == SOURCE:
            raise SettingsError(f"random quality {named}: name the codec, e.g. jpeg")
        if self.qualities != (None,):
            raise SettingsError(
                f"random quality {named} is drawn from the originals, not from quality {self.train_quality}: "
                "leave one of the two out"
            )
        if len(set(self.random_qualities)) < len(self.random_qualities):
            raise SettingsError(f"a random quality is named twice: {named}; name each once")
        if len(self.random_qualities) < 2:
            raise SettingsError(
                f"random quality {named} leaves nothing to draw: name several, or train on --quality {named}"
            )
        scale = codec_scale(self.codec)
        codec_label(self.codec)  # builds it: a wrong knob is refused before any image is read
        numbers = sorted(scale.check(quality) for quality in self.random_qualities if quality is not None)
        original = (None,) if None in self.random_qualities else ()
        object.__setattr__(self, "random_qualities", (*original, *numbers))

    @property
    def train_codec(self) -> str:
        """As conditions record it: "source" when only the originals are trained on."""
        return SOURCE if self.qualities == (None,) else codec_name(self.codec)

    @property
    def train_quality(self) -> str:
        """As conditions record it: "source", "10", "1+10+50", "source+10"."""
        return "+".join(SOURCE if quality is None else str(quality) for quality in self.qualities)

    @property
    def train_method(self) -> str:
        """As conditions record it: "standard", "random jpeg quality 10-90:10,source", "pgd linf eps=8/255 steps=7
        alpha=2/255", or both joined by " + "."""
        parts: list[str] = []
        if self.random_qualities:
            parts.append(f"random {codec_label(self.codec)} quality {quality_text(self.random_qualities)}")
        if self.adversary is not None:
            parts.append(adversary_text(self.adversary))
        return " + ".join(parts) or STANDARD

    def folders(self) -> list[AnyPath]:
        """The variant folders to train on."""
        return [
            self.data_dir / (SOURCE if quality is None else variant_name(codec_name(self.codec), quality))
            for quality in self.qualities
        ]


def quality_text(qualities: Sequence[int | None]) -> str:
    """A list of qualities as the command line writes it, shortest form: "10-90:10,source", "5,10,50", "1-100"."""
    numbers = sorted(quality for quality in qualities if quality is not None)
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1:
        (step,) = steps
        parts = [f"{numbers[0]}-{numbers[-1]}" + (f":{step}" if step > 1 else "")]
    else:
        parts = [str(number) for number in numbers]
    return ",".join([*parts, *([SOURCE] if None in qualities else [])])


def _check_adversary(plan: AttackPlan) -> None:
    """Raise `SettingsError` for one that is no attack to train against."""
    from limla.attacks.base import build_attack

    if plan.name == NO_ATTACK:
        raise SettingsError(
            "adversary 'none' attacks nothing: leave it out, or name an attack, e.g. pgd:eps=2/255"
        )
    if build_attack(plan.name, dict(plan.parameters)).eps == 0:
        raise SettingsError(
            f"adversary '{plan.name}' with eps 0 changes nothing: choose an eps above 0, e.g. 2/255"
        )


def adversary_text(plan: AttackPlan) -> str:
    """An attack with its norm and all that decides what it does: "pgd linf eps=8/255 steps=7 alpha=2/255"."""
    from limla.attacks.base import attack_parameters, build_attack

    attack = build_attack(plan.name, dict(plan.parameters))
    settings = attack.settings()
    first = [name for name in ("steps", "alpha") if name in settings]
    rest = [name for name in attack_parameters(plan.name) if name in settings and name not in first]
    values = {"eps": attack.eps, **{name: settings[name] for name in (*first, *rest)}}
    named = [f"{name}={_parameter_text(value, attack.norm == 'linf')}" for name, value in values.items()]
    return " ".join([attack.name, attack.norm, *named])


def _parameter_text(value: Parameter, in_levels: bool) -> str:
    """A short text that reads back as the value: "0.03", "7"; "8/255" where it is one of 255 levels."""
    if not isinstance(value, float):
        return str(value)
    levels = f"{value * 255:.6g}"
    if float(f"{value:.6g}") == value:
        return f"{value:.6g}"
    return f"{levels}/255" if in_levels and float(levels) / 255 == value else repr(value)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run gives back.

    Attributes:
        best_checkpoint: `best.pt`, the weights with the lowest validation loss; with an adversary the lowest
            "val_robust_loss".
        metrics: of that epoch: "epoch", and "train_" and "val_" loss (nats), accuracy, precision_macro,
            recall_macro, f1_macro; with an adversary "val_robust_" loss and accuracy.
        epochs_run: epochs trained until the run stopped.
    """

    best_checkpoint: Path
    metrics: dict[str, float]
    epochs_run: int
