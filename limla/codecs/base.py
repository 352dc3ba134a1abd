"""The codec socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from limla.errors import SettingsError
from limla.types import Image


@dataclass(frozen=True)
class QualityScale:
    """A codec's native knob.

    Attributes:
        knob: its name in the codec's own documentation.
        lowest, highest: the allowed whole numbers, both included.
        higher_is_better: False for knobs like QP.
    """

    knob: str
    lowest: int
    highest: int
    higher_is_better: bool = True

    def check(self, quality: int) -> int:
        """Return `quality` if it is in range, else raise `SettingsError` with the range."""
        if not self.lowest <= quality <= self.highest:
            raise SettingsError(
                f"{self.knob} {quality} is out of range: choose {self.lowest} to {self.highest}"
            )
        return quality


class Codec(Protocol):
    """Bytes ↔ pixels. Knows numpy, nothing of torch; thread-safe; equal input gives equal bytes."""

    name: ClassVar[str]
    extension: ClassVar[str]
    scale: ClassVar[QualityScale]

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image. Raises `SettingsError` for a quality outside `scale`."""
        ...

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode to a new, writable (H, W, 3) uint8 sRGB array. Raises `DataError` for damaged data."""
        ...

    def settings(self) -> dict[str, str | int | bool]:
        """Every pinned knob but the quality: what decides the bytes."""
        ...

    def version(self) -> str:
        """Library and version that make the bytes."""
        ...


@runtime_checkable
class SharedEncoder(Protocol):
    """What a codec may offer besides: one image at several qualities for less than the sum."""

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """The bytes of `Codec.encode` at each quality, in that order; raises as it does."""
        ...


def encode_each(codec: Codec, image: Image, qualities: Sequence[int]) -> list[bytes]:
    """`image` at each quality, in order; the work in common is done once where the codec knows how."""
    if isinstance(codec, SharedEncoder):
        return codec.encode_each(image, qualities)
    return [codec.encode(image, quality) for quality in qualities]
