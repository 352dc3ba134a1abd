"""The codecs of the catalogue as the suites build them, and what may be asked of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.errors import DataError
from limla.types import Image

SHAPES = ((1, 1), (1, 37), (29, 1), (2, 2), (15, 17), (16, 16), (33, 47), (100, 3))

_SMALL = Path(__file__).parent / "golden" / "autoencoder-small.bin"
KNOBS: dict[str, dict[str, str]] = {"autoencoder": {"weights": str(_SMALL)}}
"""Codec → the knobs without which it cannot be built."""

BEST_PSNR_DB: dict[str, tuple[float, float]] = {"lowrank": (28.5, 33), "autoencoder": (23, 24.5)}
"""Codec → PSNR that its best quality reaches at least, of colours and of gray, where that is less than of others."""


def catalogue_codec(name: str) -> Codec:
    """A codec of the catalogue with its own settings."""
    return build_codec(name, **KNOBS.get(name, {}))


def codec_text(name: str) -> str:
    """How a command asks for the same codec."""
    knobs = ",".join(f"{knob}={value}" for knob, value in KNOBS.get(name, {}).items())
    return f"{name}:{knobs}" if knobs else name


def qualities(codec: Codec, number: int) -> list[int]:
    """`number` qualities over the whole scale, from the worst image to the best."""
    numbers = codec.scale.from_worst()
    return list(
        dict.fromkeys(numbers[int(place)] for place in np.linspace(0, len(numbers) - 1, number).round())
    )


def decodes_or_data_error(decode: Callable[[bytes], Image], data: bytes) -> None:
    """Fail unless `data` is an image or refused."""
    try:
        image = decode(data)
    except DataError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
