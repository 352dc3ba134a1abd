"""WebP (RFC 9649), lossy: VP8 key frames through Pillow and libwebp."""

from __future__ import annotations

import struct
from typing import ClassVar

from PIL.WebPImagePlugin import WebPImageFile

from limla.codecs import pillow
from limla.codecs.base import QualityScale, check_decoded_size, check_image
from limla.errors import SettingsError
from limla.types import Image

_MAX_SIDE = 16383
_METHODS = range(7)


def decode_webp(data: bytes | memoryview) -> Image:
    """Decode to (H, W, 3) uint8 RGB with libwebp's smooth chroma upsampling; transparency is left out.

    Raises `DataError` for damaged or truncated data, and for more than `MAX_PIXELS`.
    """
    # libwebp allocates its canvas as the file is opened
    check_decoded_size(*_canvas(bytes(data[:30])))
    return pillow.decode(data, "WebP", WebPImageFile)


def _canvas(header: bytes) -> tuple[int, int]:
    """(height, width) by the first chunk of a file; raises `DataError` where it says none."""
    kind = header[12:16]
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP" and len(header) == 30:
        if kind == b"VP8 " and header[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", header, 26)
            return height & 0x3FFF, width & 0x3FFF
        if kind == b"VP8X":
            return 1 + int.from_bytes(header[27:30], "little"), 1 + int.from_bytes(header[24:27], "little")
        if kind == b"VP8L" and header[20] == 0x2F:
            bits = int.from_bytes(header[21:25], "little")
            return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    raise pillow.damaged("WebP", "its header is damaged or cut off")


class WebpCodec:
    """Lossy WebP, chroma 4:2:0 as VP8 has it, one thread.

    Args:
        method: libwebp's effort, 0 (fastest) to 6 (smallest files).
    """

    name: ClassVar[str] = "webp"
    extension: ClassVar[str] = "webp"
    scale: ClassVar[QualityScale] = QualityScale("quality", 0, 100)

    def __init__(self, method: int = 4) -> None:
        if method not in _METHODS:
            raise SettingsError(f"WebP method {method} is out of range: choose 0 to {_METHODS[-1]}")
        pillow.check_installed("webp", self.name)
        self.method = method

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 16383, at quality 0 to 100.

        Raises `SettingsError` for a quality out of range and an image too large for the format, `ValueError` for a
        shape or dtype that is no image.
        """
        self.scale.check(quality)
        check_image(image, "WebP", _MAX_SIDE)
        return pillow.encode(
            image, "WEBP", lossless=False, quality=quality, method=self.method, alpha_quality=100, exact=False
        )

    def decode(self, data: bytes | memoryview) -> Image:
        """See `decode_webp`."""
        return decode_webp(data)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {"method": self.method, "lossless": False, "subsampling": "420"}

    def version(self) -> str:
        """The libraries that encode."""
        return pillow.version("libwebp", "webp")
