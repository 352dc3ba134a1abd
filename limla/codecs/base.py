"""The codec socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from limla.errors import DataError, SettingsError
from limla.types import Image

MAX_PIXELS = 178_956_970
"""The most pixels of an image that is decoded, half a gigabyte as RGB: where Pillow, too, speaks of a decompression
bomb. A header that says more is refused before anything is allocated for it."""


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

    def from_worst(self) -> range:
        """Every allowed number, from the worst image to the best."""
        numbers = range(self.lowest, self.highest + 1)
        return numbers if self.higher_is_better else numbers[::-1]


class Codec(Protocol):
    """Bytes ↔ pixels. Knows numpy, nothing of torch; thread-safe; picklable; equal input gives equal bytes.

    In a plug these three are plain class attributes.
    """

    @property
    def name(self) -> str:
        """In the catalogue: lower-case letters and digits, with "-" between."""
        ...

    @property
    def extension(self) -> str:
        """Of its files and shard members; "laff" for those in limla's own container, whose header names the codec."""
        ...

    @property
    def scale(self) -> QualityScale:
        """Of its qualities."""
        ...

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image. Raises `SettingsError` for a quality outside `scale`."""
        ...

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode to a new, writable (H, W, 3) uint8 sRGB array.

        Raises `DataError` for damaged data, and for an image of more than `MAX_PIXELS`.
        """
        ...

    def settings(self) -> dict[str, str | int | bool]:
        """Every pinned knob but the quality: what decides the bytes. A knob has the name of its argument."""
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


class Prefix(NamedTuple):
    """What the beginning of a progressive file holds.

    Attributes:
        image: (H, W, 3) uint8, as good as the bytes that are there allow.
        held, whole: how far it goes, of what the whole file says: the ranks of an SVD.
    """

    image: Image
    held: int
    whole: int


@runtime_checkable
class Progressive(Protocol):
    """What a codec may offer besides: the beginning of its file is a coarser image."""

    def decode_prefix(self, data: bytes | memoryview) -> Prefix:
        """Decode a file that may have been cut off.

        Raises `DataError` where not even the coarsest image is there, or what is there is damaged.
        """
        ...


@runtime_checkable
class Learned(Protocol):
    """A codec that was trained: what it writes can be read with the same weights alone.

    Its knob `weights` is the path of a file, and `settings()["weights"]` the first hexadecimal digits of the SHA-256 of
    its contents. A folder of shards holds a copy of it, `WEIGHTS`.
    """

    def weights_bytes(self) -> bytes:
        """The contents of the weights file."""
        ...

    @classmethod
    def from_weights(cls, data: bytes) -> Any:
        """The codec from the contents of a weights file; raises `DataError` for anything else."""
        ...


@runtime_checkable
class BinaryCodes(Codec, Protocol):
    """A codec whose bitstream is a grid of binary codes, to be had as an array."""

    def codes(self, image: Image, quality: int) -> npt.NDArray[np.uint8]:
        """The (bits, rows, columns) uint8 codes, 0 or 1, of an (H, W, 3) uint8 image; raises as `Codec.encode`."""
        ...

    def from_codes(self, codes: npt.NDArray[np.uint8], height: int, width: int, gray: bool = False) -> Image:
        """The (height, width, 3) uint8 image of such codes; `gray`: it had no colour, which they do not say.

        Raises `DataError` for codes that it cannot have given.
        """
        ...


WEIGHTS = "codec-weights.bin"
"""The copy of a learned codec's weights in a folder of what it wrote."""


def encode_each(codec: Codec, image: Image, qualities: Sequence[int]) -> list[bytes]:
    """`image` at each quality, in order; the work in common is done once where the codec knows how."""
    if isinstance(codec, SharedEncoder):
        return codec.encode_each(image, qualities)
    return [codec.encode(image, quality) for quality in qualities]


def check_image(image: Image, codec: str, longest: int) -> None:
    """Raise unless `image` is (H, W, 3) uint8 with sides of 1 to `longest` pixels, `MAX_PIXELS` at most.

    `ValueError` for what is no image; `SettingsError` naming the codec for one that is too large for it.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"need an (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    if max(height, width) > longest:
        raise SettingsError(f"a side of {max(height, width)} pixels is too long for {codec}: at most {longest}")
    if height * width > MAX_PIXELS:
        raise SettingsError(f"{height} × {width} pixels are too many: at most {MAX_PIXELS}")


def check_decoded_size(height: int, width: int) -> None:
    """Raise `DataError` unless a header's numbers are the sides of an image of at most `MAX_PIXELS`."""
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise DataError(
            f"its header says {height} × {width} pixels; an image has at least 1 and at most {MAX_PIXELS}"
        )
