"""JPEG (ITU-T T.81) through simplejpeg (libjpeg-turbo)."""

from __future__ import annotations

import importlib.metadata
from typing import ClassVar

import numpy as np
import simplejpeg

from limla.codecs.base import QualityScale
from limla.errors import DataError, SettingsError
from limla.types import Image

SUBSAMPLINGS = ("420", "422", "444")
_MAX_SIDE = 65500


def decode_jpeg(data: bytes | memoryview) -> Image:
    """Decode to (H, W, 3) uint8 RGB: accurate DCT, smooth ("fancy") chroma upsampling; gray is repeated.

    Bit for bit what Pillow and DALI on the CPU give. EXIF orientation is not applied (packing did that).
    Raises `DataError` for damaged or truncated data.
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError as error:
        raise DataError(f"not a decodable JPEG: {error}") from error


class JpegCodec:
    """Baseline JPEG, standard quantisation and Huffman tables, chroma subsampling pinned.

    TurboJPEG encodes with the fast integer DCT below quality 96 and the accurate one from 96 on, whatever
    `fastdct` asks for; simplejpeg offers no way around it. Against Pillow's accurate DCT the files are as
    long within 1%, and PSNR is lower by 0.01 dB at quality 50 and about 0.4 dB at 90; from 96 on the bytes
    are Pillow's. So the DCT is part of the recorded settings, and a test holds the difference.
    """

    name: ClassVar[str] = "jpeg"
    extension: ClassVar[str] = "jpg"
    scale: ClassVar[QualityScale] = QualityScale("quality", 1, 100)

    def __init__(self, subsampling: str = "420") -> None:
        if subsampling not in SUBSAMPLINGS:
            raise SettingsError(f"unknown chroma subsampling '{subsampling}'; known: {', '.join(SUBSAMPLINGS)}")
        self.subsampling = subsampling

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, at quality 1 to 100.

        Raises `SettingsError` for a quality out of range, `ValueError` for a shape or dtype that is no image.
        """
        self.scale.check(quality)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"need an (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
        if max(image.shape[:2]) > _MAX_SIDE:
            raise SettingsError(
                f"a side of {max(image.shape[:2])} pixels is too long for JPEG: at most {_MAX_SIDE}"
            )
        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(image),
            quality=quality,
            colorspace="RGB",
            colorsubsampling=self.subsampling,
            fastdct=False,
        )

    def decode(self, data: bytes | memoryview) -> Image:
        """See `decode_jpeg`."""
        return decode_jpeg(data)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {
            "subsampling": self.subsampling,
            "dct": "fast below 96, accurate from 96",
            "progressive": False,
            "optimize": False,
        }

    def version(self) -> str:
        """The library that encodes."""
        return f"simplejpeg {importlib.metadata.version('simplejpeg')}"
