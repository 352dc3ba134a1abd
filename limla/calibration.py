"""A calibration dataset whose class signal lies in known spatial frequencies.

Every image is a coloured, cloudy background with one luma grating. A class is a band (the grating's period)
and an orientation (horizontal or vertical stripes): which orientation it is can be read from that band alone.
JPEG quantises fine bands first, so when quality falls the two classes of the finest band must become
indistinguishable first and those of the coarsest last, whatever model looks at them.

With `AMPLITUDE` a = 20 grey levels, a grating aligned with an 8×8 block has a DCT coefficient of about
4√2·a = 113, which rounds to zero where the quantisation step exceeds 2·113 (ITU-T T.81, table K.1, scaled by
libjpeg's quality rule). That happens for the periods 2.7, 4 and 8 pixels near quality 11, 5 and 2; the period of
32 pixels lives in the blocks' means, which survive quality 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from limla.errors import SettingsError
from limla.files import remove_unfinished, write_bytes
from limla.progress import SILENT, Progress
from limla.types import Image

BANDS: dict[str, float] = {"coarse": 32.0, "medium": 8.0, "fine": 4.0, "finest": 8 / 3}
"""Band name → period of the grating in pixels, coarsest first."""
ORIENTATIONS = ("horizontal", "vertical")
AMPLITUDE = 20.0
"""Mean amplitude of the grating in grey levels (0–255 scale)."""


@dataclass(frozen=True)
class CalibrationSettings:
    """What the generator makes.

    Attributes:
        num_per_class: images of each of the 8 classes, 1 to 100000.
        image_size: side in pixels, 32 to 1024; at least one full period of the coarsest band.
        seed: equal seeds give equal files.
    """

    num_per_class: int = 80
    image_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_per_class <= 100_000:
            raise SettingsError(f"{self.num_per_class} images per class is out of range: choose 1 to 100000")
        if not 32 <= self.image_size <= 1024:
            raise SettingsError(f"image size {self.image_size} is out of range: choose 32 to 1024 pixels")


def class_names() -> list[str]:
    """The 8 class names, "coarse-horizontal" … "finest-vertical"."""
    return [f"{band}-{orientation}" for band in BANDS for orientation in ORIENTATIONS]


def draw(band: str, orientation: str, image_size: int, generator: np.random.Generator) -> Image:
    """Draw one (image_size, image_size, 3) uint8 image of a class.

    Random per image: phase, period (±4%), tilt (±4°), amplitude (±15%), mean colour, cloud and noise.
    """
    rows, columns = np.mgrid[:image_size, :image_size].astype(np.float64)
    across, along = (rows, columns) if orientation == "horizontal" else (columns, rows)
    tilt = np.deg2rad(generator.uniform(-4, 4))
    period = BANDS[band] * generator.uniform(0.96, 1.04)
    phase = generator.uniform(0, 2 * np.pi)
    wave = np.cos(2 * np.pi * (across * np.cos(tilt) + along * np.sin(tilt)) / period + phase)
    grating = AMPLITUDE * generator.uniform(0.85, 1.15) * wave
    colour = generator.uniform(95, 160, size=3)
    luma = grating + _cloud(image_size, generator) + generator.normal(0, 2.0, size=(image_size, image_size))
    return np.clip(np.rint(colour + luma[..., np.newaxis]), 0, 255).astype(np.uint8)


def _cloud(image_size: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """A smooth isotropic background of standard deviation 8: spectrum 1/f³, so that it tells no orientation."""
    frequency = np.hypot(np.fft.fftfreq(image_size)[:, None], np.fft.rfftfreq(image_size)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(generator.standard_normal((image_size, image_size)))
    cloud = np.fft.irfft2(noise / frequency**3, s=(image_size, image_size))
    return 8 * cloud / cloud.std()


def make_calibration(folder: Path, settings: CalibrationSettings, progress: Progress = SILENT) -> int:
    """Write the dataset as class folders of PNG files under `folder`; returns the number of images.

    Files that are already there are kept, so an interrupted run goes on. Raises `SettingsError` when the
    folder holds something else.
    """
    names = class_names()
    if folder.exists():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in names)
        if foreign:
            raise SettingsError(f"{folder} already holds '{foreign[0]}': choose a new or empty folder")
    with progress.stage("drawing", total=len(names) * settings.num_per_class) as advance:
        for class_index, name in enumerate(names):
            band, orientation = name.split("-")
            (folder / name).mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder / name)
            for number in range(settings.num_per_class):
                path = folder / name / f"{name}-{number:05d}.png"
                generator = np.random.default_rng([settings.seed, settings.image_size, class_index, number])
                buffer = io.BytesIO()
                PillowImage.fromarray(draw(band, orientation, settings.image_size, generator)).save(
                    buffer, "PNG"
                )
                if not path.exists() or path.read_bytes() != buffer.getvalue():
                    write_bytes(path, buffer.getvalue())
                advance(1)
    return len(names) * settings.num_per_class
