"""The loader socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from limla.codecs import codec_label, codec_scale
from limla.errors import SettingsError
from limla.loaders.decodable import DALI_DECODES
from limla.paths import AnyPath
from limla.registry import LOADERS
from limla.types import Batch, Preprocessing, Reading

AUTO = "auto"


@dataclass(frozen=True)
class Reencoding:
    """Every image goes through a codec at its full size, before resize and crop, at a quality drawn for it.

    Attributes:
        codec: of the catalogue, with knobs as in "jpeg:subsampling=444".
        qualities: drawn with equal probability; None leaves the image as it is. See `limla.loaders.reencoding`.
    """

    codec: str
    qualities: tuple[int | None, ...]

    def __post_init__(self) -> None:
        scale = codec_scale(self.codec)
        codec_label(self.codec)  # builds it: a wrong knob is refused here
        if not self.qualities or len(set(self.qualities)) < len(self.qualities):
            raise SettingsError(f"qualities {self.qualities} to draw from: name at least one, and each once")
        for quality in self.qualities:
            if quality is not None:
                scale.check(quality)


@dataclass(frozen=True)
class LoaderSettings:
    """What every loader is told.

    Attributes:
        preprocessing: resize and crop.
        batch_size: images per batch, at least 1; the last batch may be smaller.
        training: shuffle shards and samples from `seed` and the epoch; otherwise the order is the shards'.
        augment: random resized crop and horizontal flip instead of the centre crop (training only); with
            resize "none" the crop is resized back to the image's own size.
        reencoding: None takes the images as the shards hold them.
        seed: of shuffling, augmentation and, in training, the qualities drawn.
        rank, world_size: this process among the processes that share the data (torchrun). In evaluation rank r
            takes the global batches r, r + world_size, …, so that every batch is the one a single process
            would have made; in training each rank takes every world_size-th sample of the shuffled epoch,
            the same number on every rank.
        num_threads: decoding threads; None means all the cores this process may use.
        device: torch device of the batches ("cpu", "cuda:0").
        verify_contents: check the shards' SHA-256 (else only presence and size): of local ones before the first
            batch, of those in an object store as they are fetched.
        reading: how pixels are made of bytes; the `cpu` loader alone can read otherwise than usual, in evaluation.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    batch_size: int = 32
    training: bool = False
    augment: bool = False
    reencoding: Reencoding | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    num_threads: int | None = None
    device: str = "cpu"
    verify_contents: bool = True
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SettingsError(f"batch size {self.batch_size} is out of range: choose at least 1")
        if self.num_threads is not None and self.num_threads < 1:
            raise SettingsError(f"{self.num_threads} threads: choose at least 1")
        if not 0 <= self.rank < self.world_size:
            raise SettingsError(f"rank {self.rank} of {self.world_size}: choose 0 to {self.world_size - 1}")
        if self.augment and not self.training:
            raise SettingsError("augmentation is for training only: evaluation must see each image as it is")
        if self.training and self.reading != Reading():
            raise SettingsError("another decoder or resize is for evaluation only")


class Loader(Protocol):
    """An iterable of `Batch`; iterating again repeats the pass, after `set_epoch` with the new epoch's draws.

    A plug is a class called with (source: ShardSource, settings: LoaderSettings). One pass at a time: a new
    one ends the one before it.

    Attributes:
        decoder: "cpu", "dali-cpu", "dali-gpu", …: part of every condition.
        num_samples: samples this rank yields in one pass: in evaluation each exactly once.
        class_names: index = label.
    """

    decoder: str
    num_samples: int
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Batches in one pass of this rank."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose shuffling and augmentation the next pass uses."""
        ...

    def close(self) -> None:
        """Release files, threads and device memory; a later pass opens them again."""
        ...


def open_loader(name: str, folders: Sequence[AnyPath], split: str, settings: LoaderSettings) -> Loader:
    """Check the shards of a split and open a loader on them.

    Args:
        name: "cpu", "dali", "webdataset", or "auto": "dali" when `settings.device` is a GPU and DALI decodes what the
            shards hold, else "cpu". On a CPU that is the faster one, and it alone has every codec's own decoder.
        folders: variant folders of one dataset; several are a mix, in which each image comes once per variant.
        split: "train", "val" or "test".
        settings: see `LoaderSettings`.

    Raises `UnknownNameError`, `SettingsError`, or `DataError` for shards that are missing, truncated, altered
    or not variants of one dataset (see `limla.loaders.source.open_source`). An image that cannot be decoded
    raises a `DataError` naming shard and key when its batch is made.
    """
    is_usual = settings.reading == Reading()
    if name not in (AUTO, "cpu") and not is_usual:
        raise SettingsError(f"loader '{name}' has no other decoder or resize than its own: choose cpu")
    if name != AUTO:
        LOADERS.load(name)
    from limla.loaders.source import open_source

    source = open_source(folders, split, settings.verify_contents)
    if name == AUTO:
        is_decoded = set(source.extensions) <= set(DALI_DECODES)
        name = "dali" if settings.device.startswith("cuda") and is_usual and is_decoded else "cpu"
    return LOADERS.load(name)(source, settings)
