"""The values that travel between stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from limla.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Image: TypeAlias = npt.NDArray[np.uint8]
"""An upright sRGB image, shape (height, width, 3), dtype uint8."""


@dataclass(frozen=True)
class Batch:
    """What every loader yields.

    Attributes:
        keys: the N sample keys, in the order of the images.
        images: (N, 3, H, W) float32 in [0, 1], sRGB, not normalised (normalisation is the model's first layer).
        labels: (N,) int64 class indices of the manifest's `class_names`.
    """

    keys: tuple[str, ...]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image becomes a model's input.

    Attributes:
        image_size: side in pixels of the square crop, 1 to 4096; ignored with resize "none".
        resize: "crop" resizes the shorter side to `resize_shorter` (antialiased bilinear) and takes the centre
            crop; "none" takes images at their own size, which must then be one size within a batch.
        resize_shorter: in pixels; 0 means round(image_size · 256 / 224), the ImageNet convention.
    """

    image_size: int = 224
    resize: Literal["crop", "none"] = "crop"
    resize_shorter: int = 0

    def __post_init__(self) -> None:
        if self.resize not in ("crop", "none"):
            raise SettingsError(f"resize '{self.resize}' is unknown: choose crop or none")
        if not 1 <= self.image_size <= 4096:
            raise SettingsError(f"image size {self.image_size} is out of range: choose 1 to 4096 pixels")
        if self.resize_shorter == 0:
            object.__setattr__(self, "resize_shorter", round(self.image_size * 256 / 224))
        if self.resize_shorter < self.image_size:
            raise SettingsError(
                f"the shorter side is resized to {self.resize_shorter} pixels, less than the crop of "
                f"{self.image_size}: choose a resize of at least the image size"
            )

    def describe(self) -> str:
        """Canonical text for records: "shorter256-crop224" or "none"."""
        return "none" if self.resize == "none" else f"shorter{self.resize_shorter}-crop{self.image_size}"


@dataclass(frozen=True)
class Reading:
    """How the bytes of an image become pixels, where other pipelines choose otherwise than limla does.

    Attributes:
        decoding: of JPEGs: "accurate" (accurate DCT, smooth chroma upsampling) or "fast" (libjpeg-turbo's fast DCT,
            chroma repeated).
        antialias: False resizes from the two nearest pixels of each axis however much an image shrinks, as OpenCV's
            INTER_LINEAR and TensorFlow's bilinear do; nothing to choose where images keep their size.
    """

    decoding: Literal["accurate", "fast"] = "accurate"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.decoding not in ("accurate", "fast"):
            raise SettingsError(f"decoding '{self.decoding}' is unknown: choose accurate or fast")

    def decoder_text(self, decoder: str) -> str:
        """A loader's decoder as conditions record it: "cpu", "cpu-fast"."""
        return decoder if self.decoding == "accurate" else decoder + _FAST

    def preprocessing_text(self, preprocessing: Preprocessing) -> str:
        """`Preprocessing.describe` as conditions record it: "shorter256-crop224", "shorter256-crop224-aliased"."""
        text = preprocessing.describe()
        return text if self.antialias or preprocessing.resize == "none" else text + _ALIASED


_FAST, _ALIASED = "-fast", "-aliased"


def split_reading(decoder: str, preprocessing: str) -> tuple[str, str, Reading]:
    """Decoder and preprocessing as limla usually reads, and how this was read, from the texts of a condition."""
    reading = Reading("fast" if decoder.endswith(_FAST) else "accurate", not preprocessing.endswith(_ALIASED))
    return decoder.removesuffix(_FAST), preprocessing.removesuffix(_ALIASED), reading
