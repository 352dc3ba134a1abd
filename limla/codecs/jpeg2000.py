"""JPEG 2000 (ISO/IEC 15444-1) in a JP2 file, through Pillow and OpenJPEG."""

from __future__ import annotations

import struct
from typing import ClassVar

from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from limla.codecs import pillow
from limla.codecs.base import QualityScale, check_decoded_size, check_image
from limla.types import Image

_MAX_SIDE = 65500
_MOST_RESOLUTIONS = 6
_TENTHS = 10
_COMMENT = " "
"""In place of OpenJPEG's own, which is 37 bytes long and names its version."""

# Part 1, annexes A and I
_START = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 \0\0\0\x2djp2h\0\0\0\x16ihdr"
_SIZES = struct.Struct(">II")
_RGB = b"\0\x03\x07\x07\0\0\0\0\0\x0fcolr\x01\0\0\0\0\0\x10"
"""Three components of 8 bits, sRGB; the length of the codestream's box follows."""
_SIZ = struct.Struct(">HHIIIIIIIIH9s")
_COMPONENTS = b"\x07\1\1" * 3
_CODING = b"\0\0\0\1\1", b"\4\4\0\0"
"""No precincts of its own, LRCP, one layer, colours transformed; code blocks of 64×64, wavelet 9/7."""
_SOC, _EOC, _SOT, _SOD = b"\xff\x4f", b"\xff\xd9", b"\xff\x90", b"\xff\x93"
_MAIN_HEADER = {b"\xff\x51": "SIZ", b"\xff\x52": "COD", b"\xff\x5c": "QCD", b"\xff\x64": "COM"}


class Jpeg2000Codec:
    """JPEG 2000 with the irreversible 9/7 wavelet and colour transform, in one tile and one quality layer.

    The quality is the PSNR in tenths of a dB that OpenJPEG allots the bits for, over the three components together;
    the measured one lies near it, between what the mean colour gives and what rounding to 8 bits leaves.
    """

    name: ClassVar[str] = "jpeg2000"
    extension: ClassVar[str] = "jp2"
    scale: ClassVar[QualityScale] = QualityScale("PSNR (tenths of a dB)", 160, 500)

    def __init__(self) -> None:
        pillow.check_installed("jpg_2000", self.name)

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, for a PSNR of 16.0 to 50.0 dB.

        Raises `SettingsError` for a quality out of range and an image too large, `ValueError` for a shape or dtype
        that is no image. Pillow holds the GIL while OpenJPEG works: processes run side by side, threads do not.
        """
        self.scale.check(quality)
        check_image(image, "JPEG 2000", _MAX_SIDE)
        return pillow.encode(
            image,
            "JPEG2000",
            quality_mode="dB",
            quality_layers=[quality / _TENTHS],
            irreversible=True,
            mct=1,
            num_resolutions=min(_MOST_RESOLUTIONS, min(image.shape[:2]).bit_length()),
            codeblock_size=(64, 64),
            progression="LRCP",
            comment=_COMMENT,
            plt=False,
        )

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode a file of this codec to (H, W, 3) uint8 RGB.

        Raises `DataError` for damaged or truncated data, for more than `MAX_PIXELS`, and for kinds of JPEG 2000 that
        this codec does not write: tiles, precincts and layers without number would need memory without bound. Holds
        the GIL, as `encode`.
        """
        _check_structure(memoryview(data))
        return pillow.decode(data, "JPEG 2000", Jpeg2KImageFile)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {
            "wavelet": "9/7",
            "colour_transform": True,
            "resolutions": f"{_MOST_RESOLUTIONS}, fewer where a side is shorter than {2 ** (_MOST_RESOLUTIONS - 1)}",
            "code_block": 64,
            "tiles": 1,
            "layers": 1,
            "progression": "LRCP",
            "comment_bytes": len(_COMMENT),
        }

    def version(self) -> str:
        """The libraries that encode."""
        return pillow.version("OpenJPEG", "jpg_2000")


def _check_structure(view: memoryview) -> None:
    """Raise `DataError` unless a file's headers are of the kind this codec writes and its one tile is whole."""
    sizes_at = len(_START)
    start = sizes_at + _SIZES.size + len(_RGB)
    if view[:sizes_at] != _START or len(view) < start + 8:
        raise pillow.damaged(
            "JPEG 2000", "its header is damaged, cut off, or of a kind this codec does not write"
        )
    height, width = _SIZES.unpack_from(view, sizes_at)
    check_decoded_size(height, width)
    length = int.from_bytes(view[start : start + 4], "big")
    if view[start - len(_RGB) : start] != _RGB or view[start + 4 : start + 8] != b"jp2c":
        raise pillow.damaged("JPEG 2000", "its colours are not of a kind this codec writes")
    if start + length != len(view):
        raise pillow.damaged("JPEG 2000", f"{len(view) - start} bytes of a codestream of {length} are there")
    _check_codestream(view[start + 8 :], height, width)


def _check_codestream(view: memoryview, height: int, width: int) -> None:
    """The markers before the tile, and the tile to the end."""
    if view[:2] != _SOC or view[-2:] != _EOC:
        raise pillow.damaged("JPEG 2000", "its codestream has no beginning or no end")
    place = 2
    seen: list[str] = []
    while view[place : place + 2] != _SOT:
        name = _MAIN_HEADER.get(bytes(view[place : place + 2]))
        segment = view[place + 2 : place + 2 + int.from_bytes(view[place + 2 : place + 4], "big")]
        if name is None or name in seen or not _is_ours(name, segment, height, width):
            raise pillow.damaged("JPEG 2000", "its codestream has a header of a kind this codec does not write")
        seen.append(name)
        place += 2 + len(segment)
    tile = view[place : place + 14]
    if {"SIZ", "COD", "QCD"} - set(seen) or len(tile) < 14 or tile[12:] != _SOD:
        raise pillow.damaged("JPEG 2000", "its codestream lacks a header")
    if tile[2:6] != b"\0\x0a\0\0" or place + int.from_bytes(tile[6:10], "big") != len(view) - 2:
        raise pillow.damaged("JPEG 2000", "its tile is not whole")


def _is_ours(name: str, segment: memoryview, height: int, width: int) -> bool:
    """Whether a segment of the main header, from its length on, says what this codec writes."""
    if name == "SIZ":
        whole = (len(segment), 0, width, height, 0, 0, width, height, 0, 0, 3, _COMPONENTS)
        return len(segment) == _SIZ.size and _SIZ.unpack(segment) == whole
    if name == "COD":
        return (segment[2:7], segment[8:]) == _CODING and segment[7] < _MOST_RESOLUTIONS
    return len(segment) >= 3
