"""What a study consists of: plain, frozen values that check themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import PlainValidator

from limla.codecs import codec_label
from limla.errors import SettingsError
from limla.files import content_id
from limla.manifest import SOURCE, variant_name
from limla.paths import AnyPath, open_folder
from limla.plans import AttackPlan, DefencePlan
from limla.registry import ENGINES, LOADERS
from limla.study.codecs import STRICT, CodecPlan, Variant
from limla.study.lines import EntryError, about_entry
from limla.types import Preprocessing


def _data_folder(value: Any) -> AnyPath:
    if isinstance(value, str | Path) or hasattr(value, "fs"):
        return open_folder(value)
    raise ValueError("expected a folder or a URL such as s3://bucket/flowers")


if TYPE_CHECKING:
    DataFolder: TypeAlias = AnyPath
else:
    DataFolder = Annotated[Any, PlainValidator(_data_folder)]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class DatasetPlan:
    """Photos, or shards that were packed already.

    Attributes:
        data_dir: the shard folder or its URL; None: a folder below the study's `output_dir` whose name follows from
            what is asked for, so that other settings get other shards.
        raw: folder of photos; None when `data_dir` is packed already.
        name: of the dataset; "" takes it from the folder.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    data_dir: DataFolder | None = None
    raw: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.data_dir is None and self.raw is None:
            raise SettingsError(
                "a dataset needs 'raw', a folder of photos, or 'data_dir', a folder of shards: add one"
            )
        if self.name and not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"dataset name '{self.name}': use letters, digits, '.', '_' and '-', at most 64"
            )
        if self.name and self.data_dir is not None:
            raise SettingsError(
                f"dataset '{self.name}' takes its name from data_dir: leave 'name' or 'data_dir' out"
            )

    @property
    def label(self) -> str:
        """The dataset's name: that of its shard folder."""
        folder = self.data_dir if self.data_dir is not None else self.raw
        assert folder is not None
        return self.name or folder.resolve().name


@dataclass(frozen=True)
class SplitPlan:
    """Shares of each class, which must sum to 1; used only when `raw` is not split already.

    `val_from_train` is only for a `raw` that is: the share of train that becomes val when there is no val folder.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    val_from_train: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """How each model is trained; see `limla-train --help`.

    Attributes:
        random_quality: qualities of which each image meets another one at random every time, as the command line
            writes them ("10-90:10", "source,5,50"); "" without.
        random_codec: a codec of the study for them; "" takes its first one.
        adversary: the attack of adversarial training, as the command line writes it ("pgd:eps=2/255,steps=7");
            "" without.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.001
    patience: int = 5
    min_delta: float = 0.0
    weights: str = "none"
    freeze_backbone: bool = False
    augment: bool = False
    random_quality: str = ""
    random_codec: str = ""
    adversary: str = ""


@dataclass(frozen=True)
class TrainCondition:
    """What one model is trained on, and how.

    Attributes:
        on: the variants, several are a mix.
        plan: how.
        name: of its folder; made of `on` where the file gives none.
    """

    on: tuple[Variant, ...]
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.on:
            raise SettingsError("nothing to train on: name source, a quality, or a list of them")
        if len(set(self.on)) < len(self.on):
            raise SettingsError(
                f"a quality is named twice: {'+'.join(str(quality) for _, quality in self.on)}; name each once"
            )
        if len({codec for codec, quality in self.on if quality is not None}) > 1:
            raise SettingsError(
                f"a mix of two codecs ({self.label}) is not supported: name qualities of one codec"
            )
        if self.name and not _NAME.fullmatch(self.name):
            raise SettingsError(f"name '{self.name}': use letters, digits, '.', '_' and '-', at most 64")

    @property
    def codec(self) -> str:
        """The name of the codec of `on`, or of the qualities drawn; "" where the study's first one is meant."""
        return next((codec for codec, quality in self.on if quality is not None), self.plan.random_codec)

    @property
    def qualities(self) -> tuple[int | None, ...]:
        """Of `on`; None is the originals."""
        return tuple(quality for _, quality in self.on)

    @property
    def label(self) -> str:
        """The name, or "source", "jpeg-q10", "source+jpeg-q10"."""
        return self.name or "+".join(variant_name(*variant) for variant in self.on)


@dataclass(frozen=True)
class EvaluationPlan:
    """Which attacks each model meets; `eps` and `alpha` are on the [0, 1] scale, as numbers or text like "8/255".

    Attributes:
        attacks: names, which share `eps`, `steps` and `alpha` where they take them, or plans with their own.
        alpha: None leaves the length of a step to the attack.
        undefended: more attacks, which are not tried on the defences.
        attacked: the variants on which the model is attacked; empty means all that are tested.
        defences: codecs between attack and model, with their threat models.
        defended: the variants on which defences are evaluated; empty means the originals, so that the order is attack,
            then compression.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {**STRICT, "arbitrary_types_allowed": True}

    attacks: tuple[str | AttackPlan, ...] = ("fgsm", "pgd")
    eps: tuple[float, ...] = (8 / 255,)
    steps: int = 10
    alpha: float | None = None
    undefended: tuple[AttackPlan, ...] = ()
    attacked: tuple[Variant, ...] = ()
    defences: tuple[DefencePlan, ...] = ()
    defended: tuple[Variant, ...] = ()
    batch_size: int = 32
    seed: int = 0
    split: Literal["train", "val", "test"] = "test"


@dataclass(frozen=True)
class Study:
    """Everything `limla run` and `limla study` need.

    Attributes:
        datasets: one model is trained per dataset × model × seed × entry of `train`.
        output_dir: models, prediction rows and the report.
        codecs: each with its qualities.
        measure: see `limla reencode`.
        models, seeds: see `datasets`.
        train: training conditions; empty means the originals and each variant.
        test: the variants to test on; empty means the originals and each variant.
        image_size, resize: see `Preprocessing`.
        loader, device: see `limla evaluate`.
        engine, master: where photos are packed and re-encoded, see `limla pack`.
        margin: the loss of accuracy that is still acceptable, in percentage points.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    datasets: tuple[DatasetPlan, ...]
    output_dir: Path
    codecs: tuple[CodecPlan, ...] = (CodecPlan(),)
    measure: int | Literal["all", "none"] = 256
    models: tuple[str, ...] = ("MobileNetV2",)
    seeds: tuple[int, ...] = (0,)
    train: tuple[TrainCondition, ...] = ()
    test: tuple[Variant, ...] = ()
    image_size: int = 224
    resize: Literal["crop", "none"] = "crop"
    loader: str = "auto"
    device: str = "auto"
    engine: str = "local"
    master: str | None = None
    margin: float = 1.0
    split: SplitPlan = field(default_factory=SplitPlan)
    training: TrainingPlan = field(default_factory=TrainingPlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)

    def __post_init__(self) -> None:
        with about_entry("loader"):
            if self.loader != "auto":
                LOADERS.check(self.loader)
        with about_entry("engine"):
            ENGINES.check(self.engine)
        for name, number in (("models", len(self.models)), ("seeds", len(self.seeds))):
            if not number:
                raise EntryError((name,), "models, seeds and qualities must each name at least one")
        if isinstance(self.measure, int) and self.measure < 0:
            raise EntryError(
                ("measure",), f"measure {self.measure}: choose a number of images from 0, all or none"
            )
        for seed in self.seeds:
            # rows hold it as a signed number of 64 bits
            if not 0 <= seed < 2**63:
                raise EntryError(("seeds",), f"seed {seed} is out of range: choose 0 to {2**63 - 1}")
        self._check_named_once()
        if not 0 < self.margin < 100:
            text = f"margin {self.margin:g} is out of range: percentage points, above 0 and below 100"
            raise EntryError(("margin",), text)
        self._check_variants_known()
        with about_entry("image_size"):
            Preprocessing(image_size=self.image_size, resize=self.resize)

    def _check_named_once(self) -> None:
        lists: tuple[tuple[tuple[str, ...], Sequence[object]], ...] = (
            (("datasets",), [dataset.label for dataset in self.datasets]),
            (("codecs",), [codec.name for codec in self.codecs]),
            (("models",), self.models),
            (("seeds",), self.seeds),
            (("train",), [_train_key(condition) for condition in self.train]),
            (("train",), [condition.name for condition in self.train if condition.name]),
            (("test",), self.test),
            (("evaluation", "attacked"), self.evaluation.attacked),
            (("evaluation", "defended"), self.evaluation.defended),
        )
        for path, values in lists:
            if len(set(values)) < len(values):
                raise EntryError(path, f"{'.'.join(path)} names an entry twice: name each once")

    def _check_variants_known(self) -> None:
        known = self.variants()
        lists: tuple[tuple[tuple[str, ...], Sequence[Sequence[Variant]]], ...] = (
            (("train",), [condition.on for condition in self.train]),
            (("test",), [(variant,) for variant in self.test]),
            (("evaluation", "attacked"), [(variant,) for variant in self.evaluation.attacked]),
            (("evaluation", "defended"), [(variant,) for variant in self.evaluation.defended]),
        )
        for path, entries in lists:
            for place, entry in enumerate(entries):
                for variant in entry:
                    if variant not in known:
                        raise EntryError(
                            (*path, place),
                            f"{'.'.join(path)} names quality {self.variant_text(variant)}, which is not re-encoded; "
                            f"known: {', '.join(map(self.variant_text, known))}",
                        )

    def codec_text(self, name: str) -> str:
        """A codec of the study with its knobs, by its name; its first one for "".

        Raises `SettingsError` for a name that is not among them.
        """
        for codec in self.codecs:
            if name in ("", codec.name):
                return codec.text
        known = ", ".join(codec.name for codec in self.codecs)
        raise SettingsError(f"codec '{name}' is not among the study's: {known}")

    def variant_text(self, variant: Variant) -> str:
        """As a study file writes it: "source", "10", "webp:10" where there are several codecs."""
        codec, quality = variant
        if quality is None:
            return SOURCE
        return f"{codec}:{quality}" if len(self.codecs) > 1 else str(quality)

    def variants(self) -> tuple[Variant, ...]:
        """The originals and every re-encoding."""
        return ((SOURCE, None), *(variant for codec in self.codecs for variant in codec.variants))

    def train_conditions(self) -> tuple[TrainCondition, ...]:
        """What each model is trained on."""
        return self.train or tuple(TrainCondition((variant,), self.training) for variant in self.variants())

    def test_variants(self) -> tuple[Variant, ...]:
        """What to test on."""
        return self.test or self.variants()

    def attacked_variants(self) -> tuple[Variant, ...]:
        """What attacks without a defence are evaluated on."""
        return self.evaluation.attacked or self.test_variants()

    def defended_variants(self) -> tuple[Variant, ...]:
        """What defences are evaluated on; none where there is no defence."""
        return (self.evaluation.defended or ((SOURCE, None),)) if self.evaluation.defences else ()

    def preprocessing(self) -> Preprocessing:
        """Resize and crop."""
        return Preprocessing(image_size=self.image_size, resize=self.resize)

    def data_dir(self, dataset: DatasetPlan) -> AnyPath:
        """Where a dataset's shards are, or go."""
        if dataset.data_dir is not None:
            return dataset.data_dir
        decides = {
            "raw": str(dataset.raw and dataset.raw.resolve()),
            "split": vars(self.split),
            "codecs": [
                [codec.name, codec.subsampling] if codec.subsampling else codec_label(codec.text)
                for codec in self.codecs
                if codec_label(codec.text) != codec.name
            ],
            "measure": self.measure,
        }
        return self.output_dir / "shards" / content_id(decides)[:8] / dataset.label

    @property
    def results_dir(self) -> Path:
        """Prediction rows."""
        return self.output_dir / "results"

    @property
    def report(self) -> Path:
        """The HTML file."""
        return self.output_dir / "report.html"


def _train_key(condition: TrainCondition) -> tuple[object, ...]:
    return frozenset(condition.on), condition.plan
