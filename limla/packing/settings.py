"""What packing is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from limla.codecs.base import MAX_PIXELS
from limla.errors import SettingsError
from limla.registry import ENGINES

_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PackSettings:
    """How to split and cut.

    Attributes:
        seed: of the split and of the order in the shards.
        train, val, test: shares of every class, from 0 to 1, together 1; unused for a folder that is split already.
        val_from_train: for a folder that is split already and has no val: the share of each class's training
            images that becomes val, below 1; 0 moves none.
        max_shard_bytes: a tar ends before it would grow beyond this, as reckoned from the photos' file sizes (one
            larger photo still gets its own). Pictures stored as PNG outgrow their files, and their tar the limit.
        max_shard_samples: images in a shard at most; those that cannot be decoded are missing from it.
        max_pixels: a picture that declares more is quarantined without being decoded.
        profiles: what an embedded ICC profile that is not sRGB does to an RGB or gray picture: "keep" leaves the
            bytes as they are, so every decoder reads the values as sRGB, as all of them do elsewhere; "convert"
            turns the colours into sRGB, which makes the picture a PNG. CMYK always goes through its profile.
        workers: threads (Spark: of each task); None leaves it to the engine. Does not change the bytes.
        engine: a name of the engine catalogue. Does not change the bytes either.
    """

    seed: int = 0
    train: float = 0.8
    val: float = 0.1
    test: float = 0.1
    val_from_train: float = 0.0
    max_shard_bytes: int = 256 << 20
    max_shard_samples: int = 1000
    max_pixels: int = MAX_PIXELS
    profiles: Literal["keep", "convert"] = "keep"
    workers: int | None = None
    engine: str = "local"

    def __post_init__(self) -> None:
        for name, share in self.fractions().items():
            if not (math.isfinite(share) and 0 <= share <= 1):
                raise SettingsError(f"the {name} fraction is {share}: choose a number from 0 to 1")
        total = sum(self.fractions().values())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise SettingsError(
                f"the fractions train {self.train} + val {self.val} + test {self.test} make {total:g}: "
                "choose fractions that sum to 1"
            )
        if not 0 <= self.val_from_train < 1:
            raise SettingsError(f"val from train is {self.val_from_train}: choose a share from 0, below 1")
        for name in ("max_shard_bytes", "max_shard_samples", "max_pixels"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name.replace('_', ' ')} is {getattr(self, name)}: choose at least 1")
        if self.max_pixels > MAX_PIXELS:
            raise SettingsError(
                f"max pixels is {self.max_pixels}: choose at most {MAX_PIXELS}, Pillow's own limit"
            )
        if self.profiles not in ("keep", "convert"):
            raise SettingsError(f"profiles is '{self.profiles}': choose keep or convert")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"{self.workers} workers: choose at least 1")
        ENGINES.check(self.engine)

    def fractions(self) -> dict[str, float]:
        """Split → share."""
        return {"train": self.train, "val": self.val, "test": self.test}
