"""Embedded ICC profiles → sRGB, through LittleCMS (Pillow's ImageCms)."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageCms

_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
SRGB_TOLERANCE = 2
"""A profile that moves no colour by more levels than this is taken as sRGB: its many versions differ so much."""


class ProfileError(ValueError):
    """A profile that is damaged, or for another kind of picture."""


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether `profile` leaves the colours of pictures of `mode` ("RGB", "L", "CMYK") as they are.

    Judged by what it does to a grid of colours, not by its name. Raises `ProfileError` when it cannot be used.
    """
    return _is_srgb(profile, mode)


@functools.lru_cache(maxsize=64)
def _is_srgb(profile: bytes, mode: str) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == "CMYK":
        to_srgb(PIL.Image.new("CMYK", (1, 1)), profile)
        return False
    if mode == "L":
        grid = steps[None, :].copy()
    else:
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    picture = PIL.Image.fromarray(grid)
    moved = np.asarray(to_srgb(picture, profile)).astype(int)
    return bool(np.abs(moved - np.asarray(picture.convert("RGB"))).max() <= SRGB_TOLERANCE)


def to_srgb(picture: PIL.Image.Image, profile: bytes) -> PIL.Image.Image:
    """An RGB, L or CMYK picture in `profile` as RGB in sRGB: relative colorimetric, with black point compensation.

    Raises `ProfileError` when the profile cannot be used for this picture.
    """
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES.get(picture.mode):
            raise ProfileError(f"a profile for {source.profile.xcolor_space}, not for {picture.mode}")
        target = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(picture, source, target, _INTENT, "RGB", flags=_FLAGS)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise ProfileError(str(error)) from error
    assert found is not None
    return found
