"""A study: the grid of `limla run`, from one TOML file or from options, checked before any work starts."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import PlainValidator

from limla.errors import LimlaError, SettingsError
from limla.manifest import SOURCE
from limla.paths import AnyPath, is_url, open_folder
from limla.plans import parse_number
from limla.registry import ATTACKS, CODECS, ENGINES, LOADERS
from limla.types import Preprocessing

Quality: TypeAlias = int | Literal["source"]
"""A codec's quality, or "source" for the originals."""


def _data_folder(value: Any) -> AnyPath:
    if isinstance(value, str | Path) or hasattr(value, "fs"):
        return open_folder(value)
    raise ValueError("expected a folder or a URL such as s3://bucket/flowers")


if TYPE_CHECKING:
    DataFolder: TypeAlias = AnyPath
else:
    DataFolder = Annotated[Any, PlainValidator(_data_folder)]

_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class SplitPlan:
    """Shares of each class, which must sum to 1; used only when `raw` is not split already.

    `val_from_train` is only for a `raw` that is: the share of train that becomes val when there is no val folder.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    val_from_train: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """How each model is trained; see `limla-train --help`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.001
    patience: int = 5
    min_delta: float = 0.0
    weights: str = "none"
    freeze_backbone: bool = False
    augment: bool = False


@dataclass(frozen=True)
class EvaluationPlan:
    """Which attacks each model meets; `eps` and `alpha` are on the [0, 1] scale, as numbers or text like "8/255"."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    attacks: tuple[str, ...] = ("fgsm", "pgd")
    eps: tuple[float, ...] = (8 / 255,)
    steps: int = 10
    alpha: float = 2 / 255
    batch_size: int = 32
    split: Literal["train", "val", "test"] = "test"


@dataclass(frozen=True)
class Study:
    """Everything `limla run` needs.

    Attributes:
        data_dir: the dataset's shard folder (`shards/flowers`, `s3://bucket/flowers`); packed from `raw` when it has
            no source shards yet.
        output_dir: models, prediction rows and the report.
        raw: folder of photos; None when `data_dir` is packed already.
        codec, qualities, subsampling, measure: see `limla reencode`.
        models, seeds: one model is trained for each model × seed × entry of `train`.
        train: what to train on, an entry per model: "source", a quality, or a list of qualities (their mix);
            empty means "source" and each of `qualities`.
        test: what to test on; empty means "source" and each of `qualities`.
        image_size, resize: see `Preprocessing`.
        loader, device: see `limla evaluate`.
        engine, master: where photos are packed and re-encoded, see `limla pack`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    data_dir: DataFolder
    output_dir: Path
    raw: Path | None = None
    codec: str = "jpeg"
    qualities: tuple[int, ...] = (1, 5, 10, 50, 90)
    subsampling: str | None = None
    measure: int | Literal["all", "none"] = 256
    models: tuple[str, ...] = ("MobileNetV2",)
    seeds: tuple[int, ...] = (0,)
    train: tuple[Quality | tuple[Quality, ...], ...] = ()
    test: tuple[Quality, ...] = ()
    image_size: int = 224
    resize: Literal["crop", "none"] = "crop"
    loader: str = "auto"
    device: str = "auto"
    engine: str = "local"
    master: str | None = None
    split: SplitPlan = field(default_factory=SplitPlan)
    training: TrainingPlan = field(default_factory=TrainingPlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)

    def __post_init__(self) -> None:
        scale = CODECS.load(self.codec).scale
        for quality in self.qualities:
            scale.check(quality)
        for attack in self.evaluation.attacks:
            ATTACKS.check(attack)
        if self.loader != "auto":
            LOADERS.check(self.loader)
        ENGINES.check(self.engine)
        if not self.models or not self.seeds or not self.qualities:
            raise SettingsError("models, seeds and qualities must each name at least one")
        self._check_qualities_named()
        mixes = [frozenset(qualities) for qualities in self.train_sets()]
        for name, values in (
            ("qualities", self.qualities),
            ("models", self.models),
            ("seeds", self.seeds),
            ("train", mixes),
        ):
            if len(set(values)) < len(values):
                raise SettingsError(f"{name} names an entry twice: name each once")
        Preprocessing(image_size=self.image_size, resize=self.resize)

    def _check_qualities_named(self) -> None:
        known = {SOURCE, *self.qualities}
        for name, entry in (
            *(("train", entry) for entry in self.train),
            *(("test", entry) for entry in self.test),
        ):
            for quality in entry if isinstance(entry, tuple) else (entry,):
                if quality not in known:
                    allowed = ", ".join(["source", *(str(number) for number in self.qualities)])
                    raise SettingsError(
                        f"{name} names quality {quality}, which is not re-encoded; known: {allowed}"
                    )

    def train_sets(self) -> tuple[tuple[int | None, ...], ...]:
        """The qualities of each model to train, None for the originals."""
        entries = self.train or (SOURCE, *self.qualities)
        return tuple(tuple(map(_native, entry if isinstance(entry, tuple) else (entry,))) for entry in entries)

    def test_qualities(self) -> tuple[int | None, ...]:
        """The qualities to test on, None for the originals."""
        return tuple(map(_native, self.test or (SOURCE, *self.qualities)))

    def preprocessing(self) -> Preprocessing:
        """Resize and crop."""
        return Preprocessing(image_size=self.image_size, resize=self.resize)


def _native(quality: Quality) -> int | None:
    return None if quality == SOURCE else int(quality)


def study_from(settings: dict[str, Any], where: str) -> Study:
    """Build a `Study` from plain values (a parsed TOML file, or options); `where` begins every message.

    Raises `SettingsError` naming the first entry that is unknown, of the wrong type or out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    settings = {**settings}
    evaluation = settings.get("evaluation")
    if isinstance(evaluation, dict):
        settings["evaluation"] = {**evaluation, **_fractions(evaluation)}
    try:
        return TypeAdapter(Study).validate_python(settings)
    except ValidationError as error:
        raise SettingsError(f"{where}: {_first_problem(error.errors())}") from error


def _fractions(evaluation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "eps" in evaluation:
        eps = evaluation["eps"]
        found["eps"] = [parse_number(value) for value in (eps if isinstance(eps, list | tuple) else [eps])]
    if "alpha" in evaluation:
        found["alpha"] = parse_number(evaluation["alpha"])
    return found


_EXPECTED = {
    "train": 'a quality, "source", or a list of them, for each model',
    "test": 'a quality or "source"',
    "measure": 'a number of images, "all" or "none"',
}


def _first_problem(problems: Sequence[Any]) -> str:
    problem = problems[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, LimlaError):
        return str(cause)
    # a union reports each member it tried ("train.0.int"): the entry's own name and number are what the user wrote
    members = ("int", "literal[", "tuple[", "function-")
    path = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(members))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown entry '{path}'; known: {', '.join(_known_names(path))}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"'{path}' is missing: add it"
    expected = _EXPECTED.get(path.split(".")[0])
    message = (
        f"expected {expected}"
        if expected
        else (problem["msg"][0].lower() + problem["msg"][1:]).replace("tuple", "list")
    )
    return f"'{path}' is {problem['input']!r}: {message}"


def _known_names(path: str) -> list[str]:
    tables = {"split": SplitPlan, "training": TrainingPlan, "evaluation": EvaluationPlan}
    return [item.name for item in fields(tables.get(path.split(".")[0], Study))]


def read_settings(path: Path) -> dict[str, Any]:
    """The entries of a study's TOML file; relative paths in it (also of weights) are relative to the file's folder.

    Raises `SettingsError` for a file that is missing or is not TOML.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise SettingsError(f"{path}: a folder; name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    for name in ("data_dir", "output_dir", "raw"):
        if isinstance(settings.get(name), str):
            settings[name] = _place(path, name, settings[name])
    training = settings.get("training")
    if isinstance(training, dict):
        weights = training.get("weights", "none")
        if isinstance(weights, str) and weights not in ("none", "imagenet"):
            settings["training"] = {**training, "weights": str(_beside(path, weights))}
    return settings


def _place(study_file: Path, name: str, text: str) -> AnyPath:
    """The folder that an entry names; only the shards' may be a URL."""
    if not is_url(text):
        return _beside(study_file, text)
    if name != "data_dir":
        raise SettingsError(
            f"{study_file}: {name} is the URL {text}, and only shards (data_dir) may lie in an object store: "
            "give a local path"
        )
    return open_folder(text)


def _beside(study_file: Path, name: str) -> Path:
    """A path in a study file; "../out" beside "tools/study.toml" is shown as "out"."""
    return Path(os.path.normpath(study_file.parent / Path(name).expanduser()))


def read_study(path: Path) -> Study:
    """Read a study from a TOML file (see `read_settings`).

    Raises `SettingsError` for a file that cannot be read or asks for what does not exist.
    """
    return study_from(read_settings(path), str(path))
