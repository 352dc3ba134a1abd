"""JPEG (ITU-T T.81) through simplejpeg (libjpeg-turbo)."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import simplejpeg

from limla.codecs import ycbcr
from limla.codecs.base import QualityScale, check_decoded_size, check_image
from limla.errors import DataError, SettingsError
from limla.types import Image

SUBSAMPLINGS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
"""Luma samples per chroma sample: across, down."""
_MAX_SIDE = 65500
_SCAN = b"\xff\xda"
"""The marker of a scan; it is not found within entropy-coded data."""
_SEQUENTIAL = (0xC0, 0xC1)
"""SOF0 and SOF1: not progressive."""
_TABLES = {0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}
"""DHT, DQT, DRI, APP0 to APP15 and COM: segments that may stand before the first scan."""
_MOST_SCANS = 500
"""As libjpeg-turbo's own fuzzers bound it; ten are usual."""
_SURELY_QUICK = 10**11
"""Pixels times bytes: a scan of 31 bytes takes less than a nanosecond for each pixel, so these take less than 4 s."""
_FRAME = b"\xff\xc0\x00\x11\x08"
"""SOF0 of three components of 8 bits; height and width follow. No table can hold it: they have no zeros."""


def decode_jpeg(data: bytes | memoryview, fast: bool = False) -> Image:
    """Decode to (H, W, 3) uint8 RGB: accurate DCT, smooth ("fancy") chroma upsampling; gray is repeated.

    Bit for bit what Pillow and DALI on the CPU give. EXIF orientation is not applied (packing did that).
    `fast`: libjpeg-turbo's fast DCT, chroma repeated. Raises `DataError` for damaged or truncated data, for more than
    `MAX_PIXELS`, and for more than 500 scans.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        check_decoded_size(int(height), int(width))
        if int(height) * int(width) * len(data) > _SURELY_QUICK:
            _check_scans(data)
        return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=fast, fastupsample=fast, strict=True)
    except DataError:  # of the size or the scans
        raise
    except ValueError as error:
        raise DataError(f"not a decodable JPEG: {error}") from error
    except KeyError as error:
        raise DataError("not a decodable JPEG: a chroma subsampling that simplejpeg does not know") from error


def _check_scans(data: bytes | memoryview) -> None:
    """Raise `DataError` for so many scans that they might take hours."""
    if not _has_one_scan(memoryview(data)) and bytes(data).count(_SCAN) > _MOST_SCANS:
        raise DataError(f"not a decodable JPEG: it has more than {_MOST_SCANS} scans")


def _has_one_scan(view: memoryview) -> bool:
    """Whether a header surely says that the first scan holds the whole image: then libjpeg reads no other one."""
    place, components = 2, 0
    while place + 10 <= len(view) and view[place] == 0xFF:
        kind = view[place + 1]
        if kind == _SCAN[1]:
            return components == view[place + 4]
        if kind in _SEQUENTIAL:
            components = view[place + 9]
        elif kind not in _TABLES:
            return False
        place += 2 + int.from_bytes(view[place + 2 : place + 4], "big")
    return False


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
        check_image(image, "JPEG", _MAX_SIDE)
        return _encode_rgb(np.ascontiguousarray(image), quality, self.subsampling)

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each quality: the same bytes, but colours are converted and chroma is halved only once.

        Above `ycbcr.MAX_QUALITY`, and where libjpeg would not take the padded planes, through `encode`.
        """
        for quality in qualities:
            self.scale.check(quality)
        check_image(image, "JPEG", _MAX_SIDE)
        height, width = image.shape[:2]
        across, down = SUBSAMPLINGS[self.subsampling]
        shared = sum(quality <= ycbcr.MAX_QUALITY for quality in qualities)
        if (
            shared < 2
            or max(ycbcr.padded_sides(height, width, across)) > _MAX_SIDE
            or not _takes_planes(self.subsampling)
        ):
            return [self.encode(image, quality) for quality in qualities]
        planes = ycbcr.to_planes(image, across, down)
        return [
            _encode_planes(planes, height, width, quality)
            if quality <= ycbcr.MAX_QUALITY
            else self.encode(image, quality)
            for quality in qualities
        ]

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


def _encode_rgb(image: Image, quality: int, subsampling: str) -> bytes:
    return simplejpeg.encode_jpeg(
        image, quality=quality, colorspace="RGB", colorsubsampling=subsampling, fastdct=False
    )


def _encode_planes(planes: ycbcr.Planes, height: int, width: int, quality: int) -> bytes:
    """The JPEG of padded planes, with the sides of the image they were made from."""
    data = simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality, fastdct=False)
    if planes.y.shape == (height, width):
        return data
    place = data.index(_FRAME) + len(_FRAME)
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"".join((data[:place], sides, memoryview(data)[place + len(sides) :]))


@functools.cache
def _takes_planes(subsampling: str) -> bool:
    """Whether the installed libjpeg makes the same bytes of planes as of RGB: tried once, on an image with every edge.

    The planes hold what libjpeg-turbo computes inside; another library behind simplejpeg may compute otherwise.
    """
    rows, columns = np.mgrid[:21, :37]
    image = np.stack([rows * 9 + columns, columns * 6, (rows * columns) % 256], axis=2).astype(np.uint8)
    height, width = image.shape[:2]
    planes = ycbcr.to_planes(image, *SUBSAMPLINGS[subsampling])
    return all(
        _encode_planes(planes, height, width, quality) == _encode_rgb(image, quality, subsampling)
        for quality in (5, 50, ycbcr.MAX_QUALITY)
    )
