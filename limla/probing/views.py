"""The views that Barlow Twins learn from: crops on the code's grid, and their mirror images.

A crop's codes are not a crop of the image's codes: an encoder sees the border. So each view is cut from the image and
encoded by itself, which costs an encoding per view. What keeps that bounded: an image has a few views, drawn once and
for all by the hash of its key. Every input, seed and epoch takes them from the same few, encoded once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from limla.errors import SettingsError
from limla.types import Image

VIEWS_IN_TRAINING = 8
"""Of each training image: 56 ordered pairs of twins."""
VIEWS_IN_TEST = 2
_SHARE = 2 / 3
_FEWEST_CELLS = 4


@dataclass(frozen=True)
class View:
    """A square crop, perhaps mirrored.

    Attributes:
        top, left: of its corner in pixels, multiples of the code's grid.
        flipped: left and right exchanged.
    """

    top: int
    left: int
    flipped: bool


@dataclass(frozen=True)
class ViewGrid:
    """Where crops may lie.

    Attributes:
        image_size: side of the images in pixels.
        cell: side in pixels of one place of the codes; corners and sides of crops are multiples of it.
    """

    image_size: int
    cell: int

    def __post_init__(self) -> None:
        if self.image_size % self.cell or self.image_size < _FEWEST_CELLS * self.cell:
            raise SettingsError(
                f"image size {self.image_size}: one code of the codec stands for {self.cell} × {self.cell} pixels; "
                f"choose a multiple of {self.cell}, and at least {_FEWEST_CELLS * self.cell}"
            )

    @property
    def view_size(self) -> int:
        """Side of every view in pixels: about two thirds of the image's."""
        return self.cell * round(_SHARE * self.image_size / self.cell)

    @property
    def _places(self) -> int:
        return (self.image_size - self.view_size) // self.cell + 1

    def num_views(self, number: int) -> int:
        """How many different views there are, `number` at most."""
        return min(number, 2 * self._places**2)

    def draw(self, key: str, number: int) -> tuple[View, ...]:
        """`num_views(number)` different views of the image `key`; a matter of the key alone."""
        places = self._places
        generator = np.random.default_rng(list(hashlib.sha256(f"limla views {key}".encode()).digest()))
        chosen = generator.choice(2 * places**2, size=self.num_views(number), replace=False)
        return tuple(
            View(self.cell * int(place // places), self.cell * int(place % places), bool(flipped))
            for place, flipped in (divmod(int(index), 2) for index in chosen)
        )

    def cut(self, image: Image, view: View) -> Image:
        """The view of an (S, S, 3) image, as a contiguous copy."""
        side = self.view_size
        crop = image[view.top : view.top + side, view.left : view.left + side]
        return np.ascontiguousarray(crop[:, ::-1] if view.flipped else crop)
