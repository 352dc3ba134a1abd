"""Which codecs are compared, and at which qualities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limla.codecs import build_codec, codec_label
from limla.codecs.base import Codec
from limla.codecs.matching import nearest_quality
from limla.errors import LimlaError, SettingsError
from limla.metrics import rate_bpp
from limla.registry import CODECS
from limla.types import Image

REFERENCE = "jpeg"
"""What the others are compared with, with its own settings."""


@dataclass(frozen=True)
class Contender:
    """A codec, and its label in rows: `limla.codecs.codec_label`."""

    label: str
    codec: Codec


def contenders(texts: Sequence[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """The codecs to compare, the reference first, and name → why a codec of the catalogue is left out.

    Args:
        texts: of the codecs; None for the catalogue, of which those are left out that are not installed, or cannot
            be built without a setting (weights).

    Raises as `build_codec` for a codec that was asked for by its text, and `SettingsError` for one asked for twice.
    """
    found = {REFERENCE: build_codec(REFERENCE)}
    left_out: dict[str, str] = {}
    for text in CODECS.names() if texts is None else texts:
        try:
            codec = build_codec(text)
            label = codec_label(text)
        except LimlaError as error:
            if texts is not None:
                raise
            left_out[text] = str(error)
            continue
        if label in found and label != REFERENCE:
            raise SettingsError(f"codec '{text}' is asked for twice")
        found[label] = codec
    return [Contender(label, codec) for label, codec in found.items()], left_out


def spread_qualities(
    codec: Codec, images: Sequence[Image], num_points: int, rates_bpp: tuple[float, float] | None = None
) -> tuple[int, ...]:
    """Up to `num_points` qualities from the worst to the best, their rates evenly spread on a logarithmic scale.

    Rates are means over `images`. From the codec's lowest rate to its highest, or what of `rates_bpp` it reaches (the
    nearest quality where that is nothing); a codec with no more than `num_points` qualities has all of them. Where it
    has too few at low rates two points may fall on one.
    """
    numbers = codec.scale.from_worst()
    if len(numbers) <= num_points:
        return tuple(numbers)
    rates: dict[int, float] = {}

    def rate_of(quality: int) -> float:
        if quality not in rates:
            rates[quality] = float(
                np.mean([rate_bpp(len(codec.encode(image, quality)), *image.shape[:2]) for image in images])
            )
        return rates[quality]

    ends = [rate_of(numbers[0]), rate_of(numbers[-1])]
    if rates_bpp is not None:
        ends = [float(np.clip(rate, *rates_bpp)) for rate in ends]
    chosen = {
        nearest_quality(codec.scale, rate_of, rate) for rate in np.geomspace(ends[0], ends[1], num_points)
    }
    return tuple(sorted(chosen, key=numbers.index))
