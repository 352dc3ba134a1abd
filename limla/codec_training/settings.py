"""What is asked of a training, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limla.codecs.autoencoder_network import BLOCK
from limla.errors import SettingsError
from limla.paths import AnyPath

_BOUNDS = {"epochs": (1, 100_000), "batch_size": (1, 4096), "crop_size": (32, 1024), "width": (8, 512)}
BITS = (160, 256, 384, 512)
"""Of a code position at the best quality: two for each ternary digit."""


@dataclass(frozen=True)
class CodecTrainSettings:
    """What to train.

    Attributes:
        data_dir: dataset folder, holding `source`.
        output: the weights file; "<output>.training.pt" beside it while it is trained, "<output>.json" in the end.
        epochs: passes over the train split, one crop of each image in each.
        batch_size: crops per step.
        crop_size: side of a crop in pixels, a multiple of 8.
        width: channels of the convolutions.
        bits: of a code position at the best quality, one of `BITS`.
        learning_rate: of Adam at first; it falls to nearly nothing along half a cosine.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    data_dir: AnyPath
    output: Path
    epochs: int = 60
    batch_size: int = 8
    crop_size: int = 128
    width: int = 96
    bits: int = 384
    learning_rate: float = 1e-3
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _BOUNDS.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise SettingsError(
                    f"{name.replace('_', ' ')} {value} is out of range: choose {lowest} to {highest}"
                )
        if self.crop_size % BLOCK:
            raise SettingsError(f"crop size {self.crop_size}: choose a multiple of {BLOCK}")
        if self.bits not in BITS:
            raise SettingsError(f"{self.bits} bits per code position: choose {', '.join(map(str, BITS))}")
        if not 0 < self.learning_rate <= 1:
            raise SettingsError(f"learning rate {self.learning_rate}: choose more than 0, at most 1")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"seed {self.seed}: choose 0 to 2**63 - 1")
        if self.output.is_dir():
            raise SettingsError(f"{self.output} is a folder: name the file that is to hold the weights")

    @property
    def num_digits(self) -> int:
        """Ternary digits of a code position at the best quality."""
        return self.bits // 2


@dataclass(frozen=True)
class CodecTrainResult:
    """What is there after a training.

    Attributes:
        output: the weights file.
        best_epoch: the one whose weights these are.
        rates: of the codec on the val split, {"quality", "bits", "rate_bpp", "psnr_db"} each.
    """

    output: Path
    best_epoch: int
    rates: tuple[dict[str, Any], ...]
