"""PNG (ISO/IEC 15948), the lossless reference, through Pillow and zlib."""

from __future__ import annotations

import struct
import zlib
from typing import ClassVar, NamedTuple

import numpy as np
import PIL.features
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from limla.codecs import pillow
from limla.codecs.base import QualityScale, check_decoded_size, check_image
from limla.errors import SettingsError
from limla.types import Image

_MAX_SIDE = 65500
_LEVELS = range(1, 10)
_FILTERED = 1
"""zlib's Z_FILTERED."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_HEADER = struct.Struct(">IIBB2xB")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the colour type of a header."""
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Of an interlaced file (8.2): first row and column, and how far it is to the next."""
_MOST_EXPANSION = 1032
"""Deflate's: 258 bytes by two bits."""
_COUNTED_AT_ONCE = 1 << 14
_LOOKED_AT = 1 << 16


def decode_png(data: bytes | memoryview) -> Image:
    """Decode to (H, W, 3) uint8 RGB; gray is repeated, 16 bits become 8, transparency and metadata are left out.

    Raises `DataError` for damaged or truncated data, fewer rows than the header says, and more than `MAX_PIXELS`.
    Allocates nothing for a header that says more pixels than the file's compressed bytes can hold.
    """
    file = _read(memoryview(data))
    check_decoded_size(file.height, file.width)
    num_bytes = file.num_bytes()
    if num_bytes > _MOST_EXPANSION * sum(map(len, file.compressed)):
        raise pillow.damaged("PNG", f"it is too short for {file.height} × {file.width} pixels")

    def check_rows(picture: ImageFile) -> None:
        # Pillow does not say how far it came. A row that it did not come to is zeros, and so may a black one be:
        # only then are the bytes counted, which takes as long as to inflate them
        # (part of it is enough, and Pillow warns of large crops)
        last = picture.crop((0, file.height - 1, min(file.width, _LOOKED_AT), file.height))
        if file.is_interlaced or not np.asarray(last).any():
            _check_inflated(file.compressed, num_bytes)

    return pillow.decode(file.data, "PNG", PngImageFile, check_rows)


class _File(NamedTuple):
    """A file's header, its compressed pixels, and `data`: all that Pillow gets."""

    height: int
    width: int
    pixel_bits: int
    is_interlaced: bool
    compressed: list[memoryview]
    data: bytes

    def num_bytes(self) -> int:
        """Of the pixels once inflated, each row with the byte of its filter (ISO/IEC 15948, 7.2 and 8.2)."""
        found = 0
        for top, left, down, across in _PASSES if self.is_interlaced else ((0, 0, 1, 1),):
            rows, columns = -(-(self.height - top) // down), -(-(self.width - left) // across)
            if columns > 0:
                found += max(rows, 0) * (1 + -(-columns * self.pixel_bits // 8))
        return found


def _check_inflated(compressed: list[memoryview], num_bytes: int) -> None:
    """Raise `DataError` unless the chunks inflate to so many bytes at least."""
    inflater, found = zlib.decompressobj(), 0
    for part in compressed:
        for start in range(0, len(part), _COUNTED_AT_ONCE):
            if not inflater.eof and found < num_bytes:
                found += len(inflater.decompress(part[start : start + _COUNTED_AT_ONCE]))
    if found < num_bytes:
        raise pillow.damaged("PNG", "it has fewer rows than its header says")


def _read(view: memoryview) -> _File:
    """The chunks that hold the pixels, each whole by its checksum, up to the last one.

    Pillow does not look at the checksums of pixels, nor whether the file has its end. The other chunks are not
    given to it: of some damage in them it warns.
    """
    if view[:8] != _SIGNATURE:
        raise pillow.damaged("PNG", "it does not begin as one")
    kept, place, kind = [bytes(view[:8])], 8, b""
    header: tuple[int, ...] | None = None
    compressed: list[memoryview] = []
    while kind != b"IEND":
        length, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        end = place + 8 + length
        if end + 4 > len(view):
            raise pillow.damaged("PNG", "it is cut off")
        if kind in _KEPT:
            if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise pillow.damaged("PNG", f"the checksum of {kind.decode()} differs")
            kept.append(bytes(view[place : end + 4]))
        if (header is None) != (kind == b"IHDR") or (kind == b"IHDR" and length != _HEADER.size):
            raise pillow.damaged("PNG", "it does not begin with its only header")
        if kind == b"IHDR":
            header = _HEADER.unpack_from(view, place + 8)
        elif kind == b"IDAT":
            compressed.append(view[place + 8 : end])
        place = end + 4
    assert header is not None
    width, height, depth, colours, interlacing = header
    if colours not in _CHANNELS:
        raise pillow.damaged("PNG", f"it is of colour type {colours}")
    return _File(height, width, depth * _CHANNELS[colours], interlacing != 0, compressed, b"".join(kept))


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
