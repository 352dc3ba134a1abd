"""The models of an evaluation: how each is loaded, the checks before any work, and its fast copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from limla.errors import SettingsError
from limla.evaluation.settings import EvaluateSettings, UserModel, check_class_names
from limla.files import content_id
from limla.models.base import IMAGENET_MEAN, IMAGENET_STD, SOURCE_DATA_IDS, ModelInfo, check_output
from limla.models.checkpoint import LoadedModel, load_checkpoint, load_user_model
from limla.models.victim import Victim, prepare_victim
from limla.progress import Progress


@dataclass(frozen=True)
class TestedData:
    """What the models are tested on.

    Attributes:
        dataset: its name.
        class_names: index = class index.
        source_ids: split → data id of the packed originals behind every variant.
    """

    dataset: str
    class_names: tuple[str, ...]
    source_ids: Mapping[str, str]


@dataclass(frozen=True)
class ModelSource:
    """What a model is called in messages, how to load it, and whose it is: a `user`'s, or a checkpoint."""

    where: str
    load: Callable[[], LoadedModel]
    user: UserModel | None = None


def model_sources(settings: EvaluateSettings, device: str, class_names: tuple[str, ...]) -> list[ModelSource]:
    """Every model of the settings, checkpoints first; loads none."""
    sources = [
        ModelSource(str(path), lambda path=path: load_checkpoint(path, device, settings.own_model))
        for path in dict.fromkeys(settings.checkpoints)
    ]
    user = settings.user_model
    if user is not None:
        sources.append(ModelSource(user.spec, lambda: _load_user(user, device, class_names), user))
    return sources


def _load_user(user: UserModel, device: str, class_names: tuple[str, ...]) -> LoadedModel:
    """A user's model; its id also covers the normalisation, which is no part of its weights file."""
    loaded = load_user_model(
        user.spec, user.weights, class_names, user.preprocessing, user.mean, user.std, device
    )
    info = loaded.info
    return replace(loaded, checkpoint_id=content_id([loaded.checkpoint_id, info.mean, info.std]))


def check_models(sources: list[ModelSource], data: TestedData, progress: Progress) -> None:
    """Load each model once before any work, so that a mistake in the last one does not wait for the others.

    `progress` is told what is taken for granted. Raises `SettingsError` for classes that are not the data's, and
    for a checkpoint trained on another packing of the data.
    """
    notes: dict[str, list[str]] = {}
    for source in sources:
        info = source.load().info
        check_class_names(source.where, info.class_names, data.class_names)
        own = source.user
        note = _order_note(info, own) if own else _origin_note(source.where, info, data)
        if note:
            notes.setdefault(note, []).append(source.where)
    for note, places in notes.items():
        more = f" and {len(places) - 2} more" if len(places) > 2 else ""
        progress.say(f"{', '.join(places[:2])}{more}: {note}")


def _origin_note(where: str, info: ModelInfo, data: TestedData) -> str:
    """A line about a checkpoint whose training images may be among the test images; "" when they are not."""
    recorded = info.extra.get(SOURCE_DATA_IDS)
    if recorded == dict(data.source_ids) or info.train_quality == "unknown":
        return ""
    if info.dataset != data.dataset:
        return f"trained on the dataset '{info.dataset}', tested on '{data.dataset}'"
    if recorded is None:
        return (
            f"does not record which packing of '{data.dataset}' it was trained on (an older limla); limla takes for "
            "granted that it is this one"
        )
    raise SettingsError(
        f"{where}: trained on another packing of '{data.dataset}', whose training images may be among these test "
        "images; evaluate it on the shards it was trained on, or train it again on these"
    )


def _order_note(info: ModelInfo, user: UserModel) -> str:
    names = info.class_names
    is_imagenets = info.mean == IMAGENET_MEAN or info.std == IMAGENET_STD
    by_default = (user.mean is None or user.std is None) and is_imagenets
    normalised = ", and that it was trained with ImageNet's mean and std" if by_default else ""
    return (
        f"limla takes for granted that its outputs are, in this order, {', '.join(names[:5])}"
        f"{', …' if len(names) > 5 else ''}{normalised}"
    )


class EvaluatedModel:
    """A loaded model, and its fast copy once the first batch is there."""

    def __init__(self, source: ModelSource, device: str, progress: Progress) -> None:
        loaded = source.load()
        self.where = source.where
        self.info = loaded.info
        self.checkpoint_id = loaded.checkpoint_id
        self.device = device
        self._loaded: LoadedModel | None = loaded
        self._victim: Victim | None = None
        self._progress = progress

    @property
    def victim(self) -> Victim:
        """The fast copy; `prepare` makes it."""
        assert self._victim is not None
        return self._victim

    @property
    def is_prepared(self) -> bool:
        """Whether the fast copy is there."""
        return self._victim is not None

    def prepare(self, example: Tensor) -> None:
        """Make the fast copy.

        Args:
            example: (1 or 2, 3, H, W) float32 images in [0, 1] on the CPU, on which its speed-ups are checked.

        Raises `SettingsError` for a model that does not turn images of this size into one output per class.
        """
        assert self._loaded is not None
        height, width = example.shape[2:]
        check_output(self._loaded.model, self.info.model, self.info.num_classes, (height, width))
        self._victim = prepare_victim(self._loaded.model, self.device, example.to(self.device))
        self._loaded = None  # the copy is all that is needed from here
        for note in self._victim.notes:
            self._progress.say(f"{self.where}: runs without a speed-up: {note}")
