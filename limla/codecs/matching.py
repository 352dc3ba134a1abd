"""Codecs at equal rate: each image at the quality whose file comes nearest to a rate.

For every codec of the catalogue there is one of its name with "-bpp" after it, whose quality is a rate in thousandths
of a bit per pixel: "webp-bpp" at 250 is WebP at 0.25 bits per pixel, with a quality for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from limla.codecs.base import Codec, QualityScale
from limla.errors import SettingsError
from limla.metrics import rate_bpp
from limla.types import Image

BPP = "-bpp"
THOUSANDTHS = 1000
RATE_SCALE = QualityScale("rate (thousandths of a bit per pixel)", 1, 24 * THOUSANDTHS)
"""Up to the rate of pixels that are not compressed at all."""


def nearest_quality(scale: QualityScale, rate_of: Callable[[int], float], target_bpp: float) -> int:
    """The quality whose rate comes nearest to `target_bpp`, found by bisection; the worse of two as near.

    Args:
        scale: of the qualities.
        rate_of: the rate in bits per pixel at a quality, of one image or the mean over a set; called once for each
            quality tried, about log2 of the length of the scale times. It should not fall as quality rises; where it
            does a little, as of tiny images, the nearest of those tried is found.
        target_bpp: bits per pixel.
    """
    qualities = scale.from_worst()
    rates: dict[int, float] = {}
    low, high = 0, len(qualities) - 1
    while low <= high:
        middle = (low + high) // 2
        rate = rates[middle] = rate_of(qualities[middle])
        if rate < target_bpp:
            low = middle + 1
        else:
            high = middle - 1
    return qualities[min(rates, key=lambda place: (abs(rates[place] - target_bpp), place))]


class RateMatched:
    """A codec at the quality that comes nearest to a rate, image by image.

    An image that the codec cannot make so small, or so large, is at the end of its scale: rates are always measured,
    never taken to be what was asked for.

    Args:
        codec: encodes and decodes.
    """

    scale = RATE_SCALE

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.name = codec.name + BPP
        self.extension = codec.extension

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image at `quality` thousandths of a bit per pixel, or nearly."""
        self.scale.check(quality)
        return _Tried(self.codec, image).nearest(quality)

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each rate; no quality of the codec is tried twice."""
        for quality in qualities:
            self.scale.check(quality)
        tried = _Tried(self.codec, image)
        return [tried.nearest(quality) for quality in qualities]

    def decode(self, data: bytes | memoryview) -> Image:
        """The codec's own."""
        return self.codec.decode(data)

    def settings(self) -> dict[str, str | int | bool]:
        """The codec's own, and how the quality is found."""
        return {**self.codec.settings(), "match": "nearest rate of each image, by bisection over the quality"}

    def version(self) -> str:
        """The codec's own."""
        return self.codec.version()


def check_rate(target_bpp: float) -> float:
    """Return bits per pixel as they are if they can be asked for, else raise `SettingsError`."""
    highest = RATE_SCALE.highest / THOUSANDTHS
    if not (math.isfinite(target_bpp) and 1 / THOUSANDTHS <= target_bpp <= highest):
        raise SettingsError(
            f"{target_bpp:g} bits per pixel is out of range: choose {1 / THOUSANDTHS} to {highest:g}"
        )
    return target_bpp


def far_from_rate(rate: float, quality: int) -> bool:
    """Whether an image's bits per pixel are more than a tenth away from the rate that a twin's quality asks for."""
    target = quality / THOUSANDTHS
    return abs(rate - target) > target / 10


def inner_codec(codec: Codec) -> Codec:
    """The codec that makes the files: itself, or of a twin at a rate the other one."""
    return codec.codec if isinstance(codec, RateMatched) else codec


class _Tried:
    """One image at every quality that a search has tried."""

    def __init__(self, codec: Codec, image: Image) -> None:
        self._codec = codec
        self._image = image
        self._files: dict[int, bytes] = {}

    def nearest(self, rate: int) -> bytes:
        quality = nearest_quality(self._codec.scale, self._rate_of, rate / THOUSANDTHS)
        return self._files[quality]

    def _rate_of(self, quality: int) -> float:
        data = self._files.get(quality)
        if data is None:
            data = self._files[quality] = self._codec.encode(self._image, quality)
        return rate_bpp(len(data), *self._image.shape[:2])
