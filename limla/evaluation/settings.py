"""What `limla evaluate` is asked for, and the checks made before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limla.attacks.base import attack_parameters
from limla.codecs import build_codec, codec_name
from limla.errors import DataError, SettingsError
from limla.loaders.simulation import check_simulation
from limla.manifest import SOURCE, SPLITS, Manifest, list_variants, read_manifest, variant_name
from limla.paths import AnyPath
from limla.plans import NO_ATTACK, AttackPlan, DefencePlan
from limla.registry import ATTACKS, LOADERS
from limla.types import Preprocessing, Reading

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class UserModel:
    """A trained model that limla never saw.

    Attributes:
        spec: "package.module:function", or a model's name.
        weights: its state dict, see `limla.models.checkpoint.load_user_model`.
        preprocessing: the input size it was trained with.
        mean, std: of the normalisation it was trained with, per channel, on the [0, 1] scale; (0, 0, 0) and
            (1, 1, 1) if it takes [0, 1] images as they are; None means ImageNet's.
    """

    spec: str
    weights: Path
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class EvaluateSettings:
    """The grid checkpoints × test qualities × attacks, and how it is computed.

    Attributes:
        data_dir: a dataset's shard folder.
        results_dir: where the rows go.
        checkpoints: files that `limla train` wrote.
        user_model: a model that limla never saw; beside or instead of checkpoints.
        own_model: "package.module:function" that a checkpoint names as its model: importing it runs code, so
            you name it, not the file.
        codec, qualities: the variants to test on; None among the qualities means the originals.
        simulate: "" tests on shards of each quality. A simulation ("cpu", "dali": see `limla.loaders.simulation`)
            makes all qualities of the originals' shards, in one pass.
        attacks: names of the catalogue, or plans with parameters of their own. "none" is always evaluated too: the
            attack success rate is measured against it.
        eps: radii on the [0, 1] scale, one cell each, for the attacks in "linf" that do not give their own.
        steps, alpha: likewise, see `shared_parameters`; None means the attack's default.
        defences: codecs between attack and model, each with the threat models under which it is attacked; the
            model without any defence is always evaluated too.
        split: "train", "val" or "test".
        loader: a loader's name or "auto"; a simulation brings its own.
        reading: how pixels are made of bytes, where it is not as limla usually does: see `limla.breakdown`.
        batch_size: images per batch; part of the condition, since a random start is drawn per batch.
        seed: of the attacks' randomness; each batch's seed follows from it and the batch's number.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", …
        precision: "float32", or "bfloat16" for clean passes only.
        verify: check the shards' SHA-256 before use (else only presence and size).
        num_pictures: how many images of the split to keep as PNG files per cell, for the report.
    """

    data_dir: AnyPath
    results_dir: Path
    checkpoints: tuple[Path, ...] = ()
    user_model: UserModel | None = None
    own_model: str | None = None
    codec: str = "jpeg"
    qualities: tuple[int | None, ...] = (None,)
    simulate: str = ""
    attacks: tuple[str | AttackPlan, ...] = (NO_ATTACK,)
    eps: tuple[float, ...] = (8 / 255,)
    steps: int | None = None
    alpha: float | None = None
    defences: tuple[DefencePlan, ...] = ()
    split: str = "test"
    loader: str = "auto"
    reading: Reading = field(default_factory=Reading)
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    verify: bool = True
    num_pictures: int = 6

    def __post_init__(self) -> None:
        if not self.checkpoints and self.user_model is None:
            raise SettingsError(
                "no model to evaluate: name a checkpoint that limla train wrote (--checkpoint out/best.pt), "
                "or a model of your own (--model package.module:function --weights FILE)"
            )
        for name in map(attack_name, self.attacks):
            ATTACKS.check(name)
        codec_name(self.codec)
        if self.loader != "auto":
            LOADERS.check(self.loader)
        if not self.qualities or not self.attacks:
            raise SettingsError("qualities and attacks must each name at least one; 'none' is an attack")
        if self.simulate:
            check_simulation(self.simulate, build_codec(self.codec), tuple(dict.fromkeys(self.qualities)))
            if self.loader != "auto":
                raise SettingsError(
                    f"loader '{self.loader}' is named, but simulation '{self.simulate}' decodes by itself: leave it out"
                )
        if self.split not in SPLITS:
            raise SettingsError(f"unknown split '{self.split}'; known: {', '.join(SPLITS)}")
        labels = [defence.label for defence in self.defences]
        if len(set(labels)) < len(labels):
            raise SettingsError(f"a defence is named twice among {', '.join(labels)}: name each once")
        if self.batch_size < 1:
            raise SettingsError(f"batch size {self.batch_size} is out of range: choose at least 1")
        if self.num_pictures < 0:
            raise SettingsError(f"{self.num_pictures} pictures: choose 0 or more")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"unknown precision '{self.precision}'; known: {', '.join(PRECISIONS)}")
        if self.precision != "float32" and {*map(attack_name, self.attacks)} != {NO_ATTACK}:
            raise SettingsError(
                f"precision {self.precision} is for clean passes only (its gradients are too coarse to attack "
                "with): choose float32, or --attack none"
            )


def attack_name(attack: str | AttackPlan) -> str:
    """Its catalogue name."""
    return attack if isinstance(attack, str) else attack.name


def shared_parameters(name: str) -> tuple[str, ...]:
    """Those of eps, steps and alpha that an attack takes from the grid where it does not give its own.

    Steps go with alpha: those of other attacks (of Adam in "cw", of APGD in "autoattack") are another matter. Eps and
    alpha are changes of single values, for attacks in "linf" alone.
    """
    takes = attack_parameters(name)
    return tuple(
        each for each in ("eps", "steps", "alpha") if each in takes and (each == "eps" or "alpha" in takes)
    )


def check_parameters_used(
    attacks: tuple[str, ...], eps: object = None, steps: object = None, alpha: object = None
) -> None:
    """Raise `SettingsError` for a parameter given (not None) that none of the named attacks takes."""
    taken = {parameter for name in attacks for parameter in shared_parameters(name)}
    for parameter, value in (("eps", eps), ("steps", steps), ("alpha", alpha)):
        if value is not None and parameter not in taken:
            takers = [name for name in ATTACKS.names() if parameter in shared_parameters(name)]
            raise SettingsError(
                f"{parameter} is given, but no chosen attack takes it ({', '.join(attacks)}); "
                f"attacks that do: {', '.join(takers)}"
            )


def read_variants(settings: EvaluateSettings) -> dict[str, Manifest]:
    """Variant folder name → manifest for every test quality, in the order asked for; "source" for simulated ones.

    Raises `SettingsError` for a variant that is not there, listing those that are, and `DataError` for one
    without images in the split or with other class names than the rest.
    """
    there = list_variants(settings.data_dir)
    if not there:
        raise DataError(
            f"{settings.data_dir}: no shards here; make them with 'limla pack' and 'limla reencode'"
        )
    wanted = [
        SOURCE if quality is None or settings.simulate else variant_name(codec_name(settings.codec), quality)
        for quality in dict.fromkeys(settings.qualities)
    ]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise SettingsError(
            f"{settings.data_dir} has no {', '.join(dict.fromkeys(missing))}; there: {', '.join(there)}; make "
            + (
                "it with 'limla pack': qualities are simulated from it"
                if settings.simulate
                else "others with 'limla reencode'"
            )
        )
    manifests = {name: read_manifest(settings.data_dir / name) for name in wanted}
    class_names = next(iter(manifests.values())).class_names
    for name, manifest in manifests.items():
        if not manifest.num_samples(settings.split):
            splits = ", ".join(manifest.splits()) or "none"
            raise DataError(
                f"{settings.data_dir / name}: split '{settings.split}' is empty; splits with images: {splits}"
            )
        if manifest.class_names != class_names:
            raise DataError(
                f"{settings.data_dir / name}: its class names are not those of {wanted[0]}; make it again"
            )
    return manifests


def check_class_names(where: str, of_model: tuple[str, ...], of_data: tuple[str, ...]) -> None:
    """Raise `SettingsError` showing the first difference between two lists of class names, order included."""
    if of_model == of_data:
        return
    if sorted(of_model) == sorted(of_data):
        number = next(i for i, (a, b) in enumerate(zip(of_model, of_data, strict=True)) if a != b)
        difference = (
            f"the same classes in another order (class {number} is '{of_model[number]}' in the model and "
            f"'{of_data[number]}' in the data)"
        )
    else:
        only_model = [name for name in of_model if name not in of_data]
        only_data = [name for name in of_data if name not in of_model]
        parts = (
            f"only in the model: {_some(only_model)}" if only_model else "",
            f"only in the data: {_some(only_data)}" if only_data else "",
        )
        difference = "; ".join(part for part in parts if part) or f"{len(of_model)} and {len(of_data)} names"
    raise SettingsError(
        f"{where}: its classes are not the data's ({difference}); evaluate it on the dataset it was trained on"
    )


def _some(names: list[str], number: int = 5) -> str:
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")
