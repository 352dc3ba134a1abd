"""PNG (ISO/IEC 15948), the lossless reference, through Pillow and zlib."""

from __future__ import annotations

import zlib
from typing import ClassVar

import PIL.features
from PIL.PngImagePlugin import PngImageFile

from limla.codecs import pillow
from limla.codecs.base import QualityScale, check_image
from limla.errors import SettingsError
from limla.types import Image

_MAX_SIDE = 65500
_LEVELS = range(1, 10)
_FILTERED = 1
"""zlib's Z_FILTERED."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def decode_png(data: bytes | memoryview) -> Image:
    """Decode to (H, W, 3) uint8 RGB; gray is repeated, 16 bits become 8, transparency and metadata are left out.

    Raises `DataError` for damaged or truncated data, and for more than `MAX_PIXELS`.
    """
    return pillow.decode(_checked(memoryview(data)), "PNG", PngImageFile)


def _checked(view: memoryview) -> bytes:
    """The chunks that hold the pixels, each whole by its checksum, up to the last one.

    Pillow does not look at the checksums of pixels, nor whether the file has its end. The other chunks are not
    given to it: of some damage in them it warns.
    """
    if view[:8] != _SIGNATURE:
        raise pillow.damaged("PNG", "it does not begin as one")
    kept, place, kind = [bytes(view[:8])], 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        end = place + 8 + length
        if end + 4 > len(view):
            raise pillow.damaged("PNG", "it is cut off")
        if kind in _KEPT:
            if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise pillow.damaged("PNG", f"the checksum of {kind.decode()} differs")
            kept.append(bytes(view[place : end + 4]))
        place = end + 4
    return b"".join(kept)


class PngCodec:
    """PNG at one quality: the pixels themselves. How well it compresses is a setting.

    Args:
        compress_level: zlib's, 1 (fastest) to 9 (smallest files).
    """

    name: ClassVar[str] = "png"
    extension: ClassVar[str] = "png"
    scale: ClassVar[QualityScale] = QualityScale("quality (PNG is lossless)", 100, 100)

    def __init__(self, compress_level: int = 6) -> None:
        if compress_level not in _LEVELS:
            raise SettingsError(
                f"PNG compress_level {compress_level} is out of range: choose 1 to {_LEVELS[-1]}"
            )
        pillow.check_installed("zlib", self.name)
        self.compress_level = compress_level

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500; the one quality is 100.

        Raises `SettingsError` for another quality and an image too large, `ValueError` for a shape or dtype that is
        no image.
        """
        self.scale.check(quality)
        check_image(image, "PNG", _MAX_SIDE)
        return pillow.encode(
            image, "PNG", compress_level=self.compress_level, compress_type=_FILTERED, optimize=False
        )

    def decode(self, data: bytes | memoryview) -> Image:
        """See `decode_png`."""
        return decode_png(data)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {"compress_level": self.compress_level, "strategy": "filtered", "optimize": False}

    def version(self) -> str:
        """The libraries that encode."""
        if PIL.features.check("zlib_ng"):
            return pillow.version("zlib-ng", "zlib_ng")
        return pillow.version("zlib", "zlib")
