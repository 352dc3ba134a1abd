"""The finished parts of a probe: one file per input, representation and seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from limla.errors import DataError
from limla.files import write_json
from limla.probing.settings import ProbeInput, Representation


@dataclass(frozen=True)
class PartName:
    """Which part.

    Attributes:
        source: what is probed.
        representation: of it.
        seed: of the encoder; None where there is none.
    """

    source: ProbeInput
    representation: Representation
    seed: int | None

    @property
    def text(self) -> str:
        """For people: "codes q16, twins, seed 0"."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.source.text}, {self.representation}{seed}"

    def path(self, folder: Path) -> Path:
        """Its file in the folder of parts."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return folder / f"{self.source.file_name}-{self.representation}{seed}.json"


@dataclass(frozen=True)
class Part:
    """What one probe found.

    Attributes:
        predictions: classes of the test images, in the order of the shards.
        num_values: that the linear probe saw of an image.
        rate_bpp: mean bits per pixel of the test images' files; None for the originals' pixels.
        strength, val_loss: of `limla.probing.linear.LinearProbe`.
        num_parameters: of the encoder; None without one, as the following.
        train_loss: Barlow Twins loss per batch, mean of the last epoch; None without training.
        test_loss, diagonal, off_diagonal: of `limla.probing.twins.TwinsCheck`.
        seconds: that it took.
    """

    predictions: tuple[int, ...]
    num_values: int
    rate_bpp: float | None
    strength: float
    val_loss: float
    num_parameters: int | None = None
    train_loss: float | None = None
    test_loss: float | None = None
    diagonal: float | None = None
    off_diagonal: float | None = None
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path, num_images: int) -> Part:
        """The inverse of `write`; raises `DataError` for anything else, and for another number of images."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            part = cls(**{**values, "predictions": tuple(values["predictions"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove it and run again") from error
        if len(part.predictions) != num_images:
            raise DataError(
                f"{path}: has {len(part.predictions)} predictions for {num_images} test images; "
                "remove it and run again"
            )
        return part
