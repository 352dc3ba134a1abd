"""The codec socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

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
