"""Progressive JPEG (ITU-T T.81) with Huffman tables made for each image, through Pillow and libjpeg-turbo."""

from __future__ import annotations

import threading
from typing import ClassVar

import PIL.features
import PIL.ImageFile

from limla.codecs import pillow
from limla.codecs.base import QualityScale, check_image
from limla.codecs.jpeg import SUBSAMPLINGS, decode_jpeg
from limla.errors import SettingsError
from limla.types import Image

_MAX_SIDE = 65500
_MCU = 16
_BYTES_PER_PIXEL = 10
"""More than any JPEG of 8 bits needs: three samples, each with a Huffman code and at most 11 bits."""
_BUFFER = threading.Lock()
_PILLOW_NAMES = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}


class ProgressiveJpegCodec:
    """JPEG as the web serves it: libjpeg's ten scans, optimised Huffman tables, the accurate DCT.

    Args:
        subsampling: of chroma: "420", "422" or "444".
    """

    name: ClassVar[str] = "jpeg-progressive"
    extension: ClassVar[str] = "jpg"
    scale: ClassVar[QualityScale] = QualityScale("quality", 1, 100)

    def __init__(self, subsampling: str = "420") -> None:
        if subsampling not in SUBSAMPLINGS:
            raise SettingsError(f"unknown chroma subsampling '{subsampling}'; known: {', '.join(SUBSAMPLINGS)}")
        self.subsampling = subsampling

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, at quality 1 to 100.

        Raises `SettingsError` for a quality out of range and an image too large for the format, `ValueError` for a
        shape or dtype that is no image.
        """
        self.scale.check(quality)
        check_image(image, "JPEG", _MAX_SIDE)
        # libjpeg wants a buffer for the whole file, and Pillow's guess of its length is too short for noise; its only
        # knob is the module's. None waits longer for the lock than for the GIL, which is not freed.
        height, width = (-(-side // _MCU) * _MCU for side in image.shape[:2])
        with _BUFFER:
            before = PIL.ImageFile.MAXBLOCK
            PIL.ImageFile.MAXBLOCK = max(before, _BYTES_PER_PIXEL * height * width)
            try:
                return pillow.encode(
                    image,
                    "JPEG",
                    quality=quality,
                    subsampling=_PILLOW_NAMES[self.subsampling],
                    progressive=True,
                    optimize=True,
                    smooth=0,
                    restart_marker_blocks=0,
                    restart_marker_rows=0,
                )
            finally:
                PIL.ImageFile.MAXBLOCK = before

    def decode(self, data: bytes | memoryview) -> Image:
        """See `limla.codecs.jpeg.decode_jpeg`, which reads every JPEG of a shard."""
        return decode_jpeg(data)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {"subsampling": self.subsampling, "dct": "accurate", "progressive": True, "optimize": True}

    def version(self) -> str:
        """The libraries that encode."""
        turbo = PIL.features.check("libjpeg_turbo")
        return pillow.version("libjpeg-turbo", "libjpeg_turbo") if turbo else pillow.version("libjpeg", "jpg")
