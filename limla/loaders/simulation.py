"""The simulation socket: the originals re-encoded on the fly, every quality in one pass and nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from limla.codecs.base import Codec
from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings
from limla.loaders.source import open_source
from limla.paths import AnyPath
from limla.registry import SIMULATIONS
from limla.types import Batch, Reading


class Simulation(Protocol):
    """An iterable of tuples of batches: the same images at each quality. Iterating again repeats the pass.

    A plug is a class called with (source: ShardSource, settings: LoaderSettings, codec: Codec, qualities), and has a
    static method `check(codec)` that raises `SettingsError` for a codec that it cannot simulate. The image is
    re-encoded at its own size, then resized: the order of `limla reencode` and a loader. Memory is bounded by the
    number of qualities times the loader's few batches.

    Attributes:
        decoder: that of the loader it is made of ("cpu", "dali-cpu", "dali-gpu").
        num_samples: images that this rank yields at each quality, each exactly once, in the order of the shards.
        class_names: index = label.
        qualities: those of the next pass, in the order of its batches; None is the original image.
    """

    decoder: str
    num_samples: int
    class_names: tuple[str, ...]
    qualities: tuple[int | None, ...]

    def settings(self) -> dict[str, str | int | bool]:
        """What decides the pixels beside quality and decoder: the codec's pinned settings and library version."""
        ...

    def select(self, qualities: Sequence[int | None]) -> None:
        """Choose the qualities of the next pass; the others cost nothing."""
        ...

    def __len__(self) -> int:
        """Tuples in one pass of this rank."""
        ...

    def __iter__(self) -> Iterator[tuple[Batch, ...]]: ...

    def close(self) -> None:
        """Release files, threads and device memory; a later pass opens them again."""
        ...


def check_simulation(name: str, codec: Codec, qualities: Sequence[int | None]) -> None:
    """Check a simulation's name, codec and qualities before any work.

    Raises `UnknownNameError` listing the known simulations, or `SettingsError` for a codec that this one cannot
    simulate, a quality out of range or named twice, and when there is nothing but originals.
    """
    plug = SIMULATIONS.load(name)
    numbers = [quality for quality in qualities if quality is not None]
    if not numbers:
        raise SettingsError(f"nothing to simulate: name at least one {codec.scale.knob} beside the originals")
    if len(set(qualities)) < len(qualities):
        raise SettingsError(f"a {codec.scale.knob} to simulate is named twice: name each once")
    for quality in numbers:
        codec.scale.check(quality)
    plug.check(codec)


def open_simulation(
    name: str,
    folder: AnyPath,
    split: str,
    settings: LoaderSettings,
    codec: Codec,
    qualities: Sequence[int | None],
) -> Simulation:
    """Check the shards of a split and open a simulation on them.

    Args:
        name: of `limla.registry.SIMULATIONS`.
        folder: the packed originals.
        split: "train", "val" or "test".
        settings: for evaluation: no training, augmentation or re-encoding.
        codec: what is simulated.
        qualities: each once, see `Simulation`.

    Raises as `check_simulation` and `limla.loaders.base.open_loader` do. An image that cannot be decoded, or encoded,
    raises a `DataError` naming shard and key when its batch is made.
    """
    check_simulation(name, codec, qualities)
    if settings.training or settings.reencoding is not None:
        raise SettingsError("simulated qualities are for evaluation: training draws them by reencoding")
    if settings.reading != Reading():
        raise SettingsError(
            "simulated qualities are read as limla usually reads: use shards for another reading"
        )
    source = open_source([folder], split, settings.verify_contents)
    return SIMULATIONS.load(name)(source, settings, codec, tuple(qualities))
