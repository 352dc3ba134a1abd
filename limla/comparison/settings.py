"""What a comparison of codecs is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from limla.errors import SettingsError
from limla.manifest import SPLITS
from limla.statistics.rate_curves import FEWEST_POINTS


@dataclass(frozen=True)
class CompareSettings:
    """What is compared.

    Attributes:
        folder: of photos, searched in all its folders; or of shards: a dataset's (its originals) or a variant's.
        output_dir: where rows, tables and the page go; finished parts that are there are kept.
        codecs: texts as `limla.codecs.build_codec` takes them; None: all of the catalogue that can be built. The
            reference, JPEG with its own settings, is always among them.
        split: of shards, the only one that photos are drawn from: a learned codec must not be judged on what it was
            trained on. None: all.
        num_images: drawn from the folder; all where there are fewer.
        seed: of the draw.
        num_points: qualities of each codec, evenly spread over the logarithm of its rate; of the reference, about
            twice as many.
        rates_bpp: the lowest and highest rate of those qualities in bits per pixel; None: the codec's whole range.
        workers: threads that decode photos and measure distortion; None: one for each core. Codecs are timed while
            none of them works.
    """

    folder: Path
    output_dir: Path
    codecs: tuple[str, ...] | None = None
    split: str | None = None
    num_images: int = 24
    seed: int = 0
    num_points: int = 7
    rates_bpp: tuple[float, float] | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise SettingsError(f"split '{self.split}' is unknown: choose {', '.join(SPLITS)}")
        if self.num_images < 1:
            raise SettingsError(f"{self.num_images} images: choose at least 1")
        if self.seed < 0:
            raise SettingsError(f"seed {self.seed}: choose 0 or more")
        if self.num_points < FEWEST_POINTS:
            raise SettingsError(
                f"{self.num_points} qualities: choose at least {FEWEST_POINTS}, the points that a BD-rate needs"
            )
        if self.rates_bpp is not None and not 0 < self.rates_bpp[0] < self.rates_bpp[1] < math.inf:
            raise SettingsError(
                "rates from {:g} to {:g} bits per pixel: choose two above 0, the lower first".format(
                    *self.rates_bpp
                )
            )
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"{self.workers} workers: choose at least 1")
        if self.codecs is not None and not self.codecs:
            raise SettingsError("no codec to compare: name one, as in --codecs webp")
