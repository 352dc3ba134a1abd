"""Where crops lie and how they are resized; torchvision's rules, so that results compare with its users'.

A "window" is the square that a model sees, in the coordinates of the resized image; a "region" is a rectangle
of the decoded image. How pixels are resized is in `limla.loaders.resizing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.errors import DataError
from limla.types import Image, Preprocessing

_AREA = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10


@dataclass(frozen=True)
class Region:
    """A rectangle of the decoded image in whole pixels, mirrored left to right when `flip`."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def resized_shape(height: int, width: int, shorter: int) -> tuple[int, int]:
    """(height, width) after the shorter side became `shorter`; the longer is cut to a whole number."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def crop_start(length: int, crop: int) -> int:
    """First row or column of a centre crop: round((length - crop) / 2), halves to even (torchvision)."""
    return round((length - crop) / 2)


def touches_border(preprocessing: Preprocessing) -> bool:
    """Whether the centre crop reaches the outermost row or column of the resized image."""
    return preprocessing.resize_shorter - preprocessing.image_size < 2


def to_planes(image: Image, planes: npt.NDArray[np.float32]) -> None:
    """Write an (H, W, 3) uint8 image, at its own size, into (3, H, W) float32 planes as value / 255.

    By numpy: torch would start its own threads in each loader thread, and `torch.set_num_threads(1)` there
    would also hold for threads that others start later.
    """
    np.divide(image.transpose(2, 0, 1), np.float32(255), out=planes)


def check_one_size(samples: Iterable[tuple[str, int, int]]) -> None:
    """Check that the (key, height, width) of one batch agree; raises `DataError` naming two that do not."""
    first_key, *first_size = next(iter(samples := list(samples)))
    for key, *size in samples:
        if size != first_size:
            raise DataError(
                f"images of different sizes in one batch: '{first_key}' is {first_size[1]}×{first_size[0]}, "
                f"'{key}' is {size[1]}×{size[0]} (width×height); with --resize none all images must have one "
                "size: choose an image size instead"
            )


def random_region(height: int, width: int, seed: int, epoch: int, index: int) -> Region:
    """The augmentation of one sample in one epoch: torchvision's RandomResizedCrop rule and a fair mirror.

    Area 8–100% of the image, aspect ratio 3:4 to 4:3 (log-uniform), ten tries, else the largest centred crop
    of an allowed ratio. The draw depends on (seed, epoch, sample index) only: not on threads, ranks or order.
    """
    generator = np.random.default_rng((seed, epoch, index))
    flip = bool(generator.random() < 0.5)
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(*_LOG_RATIO))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            top = int(generator.integers(height - part_height + 1))
            left = int(generator.integers(width - part_width + 1))
            return Region(top, left, part_height, part_width, flip)
    part_width = min(width, max(1, round(height * math.exp(_LOG_RATIO[1]))))
    part_height = min(height, max(1, round(width / math.exp(_LOG_RATIO[0]))))
    return Region((height - part_height) // 2, (width - part_width) // 2, part_height, part_width, flip)
