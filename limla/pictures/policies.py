"""The policies: one function from a file's bytes to the picture that every later stage sees.

Bytes are kept where every decoder of limla (libjpeg-turbo, Pillow, DALI on the CPU) gives the same upright 8-bit
sRGB pixels. Anything else is converted once, here, and stored as PNG. `docs/packing.md` holds the table.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from limla.codecs.base import MAX_PIXELS
from limla.codecs.jpeg import JpegCodec
from limla.codecs.pillow import DAMAGE
from limla.errors import DataError
from limla.pictures.colour import ProfileError, is_srgb, to_srgb
from limla.pictures.jpeg_history import JpegHistory, jpeg_history
from limla.pictures.room import Room
from limla.types import Image

Result = TypeVar("Result")

MAX_SIDE = 65500
"""The longest side libjpeg encodes."""
PNG_LEVEL = 3
_STRIP_PIXELS = 1 << 22
PROFILE_NOTE = "ICC profile that is not sRGB"
_EXTENSIONS = {"jpeg": "jpg", "png": "png", "bmp": "bmp", "tiff": "tif", "webp": "webp"}
_ORIENTATION_TAG = 0x0112
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
# TIFF: none, LZW, deflate (both numbers), PackBits
_TIFF_COMPRESSIONS = (1, 5, 8, 32946, 32773)
_KEPT_RAW_MODES = {"png": ("L", "RGB"), "bmp": ("BGR",), "tiff": ("L", "RGB")}


@dataclass(frozen=True)
class Picture:
    """A picture as it is stored.

    Attributes:
        data: the stored file.
        extension: of the stored file, by content: "jpg", "png", "bmp", "tif" or "webp".
        height, width: pixels, upright.
        source_format: "jpeg", "png", "bmp", "tiff" or "webp", by content.
        converted: why the bytes are not the source's; empty when they are.
        notes: what was passed over ("unreadable ICC profile").
        jpeg: the compression history, for JPEG sources.
    """

    data: bytes
    extension: str
    height: int
    width: int
    source_format: str
    converted: tuple[str, ...]
    notes: tuple[str, ...]
    jpeg: JpegHistory | None


def read_picture(data: bytes, max_pixels: int, convert_profiles: bool = False) -> Picture:
    """Apply the policies to one file; `convert_profiles` is `PackSettings.profiles == "convert"`.

    Raises `DataError` with the reason, in a few words, when the file cannot be decoded whole.
    """
    return _opened(data, max_pixels, convert_profiles, _Reader.read)


def read_pixels(data: bytes, max_pixels: int, convert_profiles: bool = False) -> Image:
    """The pixels of what `read_picture` stores: (H, W, 3) uint8, gray repeated; raises as it does."""
    return _opened(data, max_pixels, convert_profiles, _Reader.pixels)


@contextmanager
def pixels_in_turn(
    data: bytes, max_pixels: int, convert_profiles: bool = False, more_pixels: int = 0
) -> Iterator[Image]:
    """`read_pixels` for a block, with `MAX_PIXELS` at once in such blocks of this process, or one larger picture.

    So many threads with large pictures do not need so many times the memory; small ones do not wait. `more_pixels` are
    what the block itself makes of the picture, and count as well.
    """
    with _room.taken(_declared_pixels(data) + more_pixels):
        yield read_pixels(data, max_pixels, convert_profiles)


def _declared_pixels(data: bytes) -> int:
    """By the header; 0 where it cannot be read, which reading the picture will tell."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[content_kind(data).upper()]) as opened:
            return opened.width * opened.height
    except (*DAMAGE, PIL.UnidentifiedImageError):
        return 0


_room = Room(MAX_PIXELS)


def _opened(data: bytes, max_pixels: int, convert_profiles: bool, read: Callable[[_Reader], Result]) -> Result:
    kind = content_kind(data)
    if kind == "png":
        _check_png(data)
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[kind.upper()]) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise DataError(f"{width} x {height} pixels are more than {max_pixels}: a decompression bomb?")
            if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
                raise DataError(f"{width} x {height} pixels: sides of 1 to {MAX_SIDE} can be re-encoded")
            return read(_Reader(data, kind, opened, convert_profiles))
    except DataError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"damaged {kind.upper()} header") from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"a decompression bomb? {str(error).partition(',')[0]}") from error
    except DAMAGE as error:
        raise DataError(f"damaged {kind.upper()}: {str(error) or type(error).__name__}") from error


def content_kind(data: bytes) -> str:
    """The format by content: "jpeg", "png", "bmp", "tiff" or "webp"; `DataError` for anything else."""
    if not data:
        raise DataError("empty file")
    head = data[:12]
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"BM"):
        return "bmp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"RIFF") and head[8:] == b"WEBP":
        return "webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        raise DataError("the content is GIF, which is not supported")
    if head[4:8] == b"ftyp":
        raise DataError("the content is HEIF, AVIF or video, which is not supported")
    raise DataError("the content is not JPEG, PNG, BMP, TIFF or WebP")


def _check_png(data: bytes) -> None:
    """Raise `DataError` unless every chunk is whole: Pillow passes over wrong checksums, libpng does not."""
    offset = 8
    while offset + 12 <= len(data):
        (num_bytes,) = struct.unpack_from(">I", data, offset)
        end = offset + 12 + num_bytes
        if end > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        name = data[offset + 4 : offset + 8]
        if zlib.crc32(memoryview(data)[offset + 4 : end - 4]) != checksum:
            raise DataError(f"damaged PNG: the checksum of chunk {ascii(name)[2:-1]} is wrong")
        if name == b"IEND":
            return
        offset = end
    raise DataError("damaged PNG: truncated")


class _Reader:
    """One opened picture on its way to pixels; collects the reasons as it goes."""

    def __init__(self, data: bytes, kind: str, opened: PIL.Image.Image, convert_profiles: bool) -> None:
        self.data = data
        self.convert_profiles = convert_profiles
        self.kind = kind
        self.opened: Any = opened
        self.raw_mode = _raw_mode(opened)
        self.reasons: list[str] = []
        self.notes: list[str] = []

    def read(self) -> Picture:
        """The picture as it is stored."""
        history = self._history()
        orientation, profile = self._look()
        if self.reasons:
            plain = self._upright(orientation, profile)
            stored = io.BytesIO()
            plain.save(stored, "PNG", compress_level=PNG_LEVEL)
            return self._picture(stored.getvalue(), "png", plain.height, plain.width, history)
        # decoded whole, as the loaders will: what passes here passes there
        if self.kind == "jpeg":
            height, width = JpegCodec().decode(self.data).shape[:2]
        else:
            self.opened.load()
            width, height = self.opened.size
        return self._picture(self.data, _EXTENSIONS[self.kind], height, width, history)

    def pixels(self) -> Image:
        """What a decoder makes of the picture as it is stored."""
        orientation, profile = self._look()
        if self.reasons:
            return _rgb(self._upright(orientation, profile))
        if self.kind == "jpeg":
            return JpegCodec().decode(self.data)
        return _rgb(self.opened)

    def _look(self) -> tuple[int, bytes | None]:
        """The orientation and the profile to convert by; finds the reasons for which pixels are not kept as stored."""
        orientation = self._orientation()
        if orientation != 1:
            self.reasons.append("orientation")
        self._note_frames()
        self._note_layout()
        return orientation, self._profile()

    def _picture(
        self, data: bytes, extension: str, height: int, width: int, history: JpegHistory | None
    ) -> Picture:
        reasons, notes = tuple(self.reasons), tuple(self.notes)
        return Picture(data, extension, height, width, self.kind, reasons, notes, history)

    def _history(self) -> JpegHistory | None:
        if not isinstance(self.opened, JpegImageFile):
            return None
        progressive = bool(self.opened.info.get("progressive"))
        return jpeg_history(self.opened.quantization, self.opened.layer, progressive)

    def _orientation(self) -> int:
        """1 to 8; 1 when there is none or it cannot be read."""
        try:
            value = self.opened.getexif().get(_ORIENTATION_TAG, 1)
        except DAMAGE:
            self.notes.append("unreadable EXIF")
            return 1
        return value if isinstance(value, int) and 1 <= value <= 8 else 1

    def _note_frames(self) -> None:
        # a camera's MPO is a JPEG whose further pictures every JPEG decoder passes over
        if self.kind != "jpeg" and getattr(self.opened, "n_frames", 1) > 1:
            self.reasons.append("first frame")
            self.opened.seek(0)

    def _note_layout(self) -> None:
        mode, kind = self.opened.mode, self.kind
        if mode == "CMYK":
            self.reasons.append("cmyk")
        if mode in _ALPHA_MODES or "transparency" in self.opened.info:
            self.reasons.append("alpha")
        if mode in ("P", "PA"):
            self.reasons.append("palette")
        if mode == "1":
            self.reasons.append("bilevel")
        if mode in ("YCbCr", "LAB", "HSV"):
            self.reasons.append("colour space")
        if self._is_16_bit():
            self.reasons.append("16 bit")
        if not self.reasons and kind in _KEPT_RAW_MODES and not self._is_plain():
            self.reasons.append("layout")

    def _is_16_bit(self) -> bool:
        return self.opened.mode.startswith("I") or (self.kind != "bmp" and ";16" in self.raw_mode)

    def _is_plain(self) -> bool:
        """A layout that all decoders are tested to read alike."""
        if self.raw_mode not in _KEPT_RAW_MODES[self.kind]:
            return False
        if self.kind == "png":
            return True
        if self.kind == "bmp":
            # rows from the bottom up, not compressed
            return self.opened.tile[0].codec_name == "raw" and self.opened.tile[0].args[2] == -1
        tags = self.opened.tag_v2
        return (
            tags.get(259, 1) in _TIFF_COMPRESSIONS
            and tags.get(284, 1) == 1
            and tags.get(262) in (1, 2)
            and tags.get(266, 1) == 1
            and 322 not in tags
            and set(tags.get(258, (1,))) == {8}
            and set(tags.get(339, (1,))) == {1}
        )

    def _profile(self) -> bytes | None:
        """The embedded ICC profile to convert by; None when it is absent, sRGB, unusable or kept (both noted)."""
        profile = self.opened.info.get("icc_profile")
        if not profile:
            return None
        mode = "CMYK" if self.opened.mode == "CMYK" else "L" if self._is_gray() else "RGB"
        try:
            if is_srgb(profile, mode):
                return None
        except ProfileError:
            self.notes.append("unusable ICC profile")
            return None
        if mode != "CMYK" and not self.convert_profiles:
            self.notes.append(PROFILE_NOTE)
            return None
        self.reasons.append("icc profile")
        return profile

    def _is_gray(self) -> bool:
        return self.opened.mode in ("1", "L", "LA", "La") or self.opened.mode.startswith("I")

    def _upright(self, orientation: int, profile: bytes | None) -> PIL.Image.Image:
        """Upright 8-bit sRGB, as RGB or gray; a new image, which carries no profile, EXIF or time of the source."""
        picture = self._load()
        if self.kind == "tiff":
            orientation = self._orientation()  # Pillow turns a TIFF upright as it loads, and drops the tag
        picture = self._to_srgb(_flat_modes(picture, self.opened.info), profile)
        if orientation != 1:
            picture.getexif()[_ORIENTATION_TAG] = orientation
            picture = PIL.ImageOps.exif_transpose(picture)
        return PIL.Image.fromarray(np.asarray(picture))

    def _load(self) -> PIL.Image.Image:
        if self.kind == "jpeg" and self.opened.mode in ("L", "RGB"):
            pixels = JpegCodec().decode(self.data)
            return PIL.Image.fromarray(pixels[..., 0].copy() if self.opened.mode == "L" else pixels)
        if self.kind == "jpeg":
            check_cmyk_jpeg(self.data)
        self.opened.load()
        return self.opened

    def _to_srgb(self, picture: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
        """RGB pixels in sRGB over white."""
        alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
        if alpha is not None:
            picture = picture.convert(picture.mode[:-1])
        picture = to_srgb(picture, profile) if profile else picture.convert("RGB")
        if alpha is None:
            return picture
        white = PIL.Image.new("RGB", picture.size, (255, 255, 255))
        return PIL.Image.composite(picture, white, alpha)


def _rgb(picture: PIL.Image.Image) -> Image:
    """The RGB pixels of a picture in a new array; made strip by strip, as whole copies of large ones would add up."""
    picture.load()
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    step = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, step):
        strip = picture.crop((0, top, picture.width, min(top + step, picture.height)))
        pixels[top : top + step] = np.asarray(strip.convert("RGB"))
    return pixels


def _raw_mode(opened: PIL.Image.Image) -> str:
    """How Pillow reads the pixels, e.g. "RGB;16B"; to be asked before the picture is loaded."""
    tile: Any = getattr(opened, "tile", None)
    args = tile[0].args if tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def check_cmyk_jpeg(data: bytes) -> None:
    """Raise `DataError` when a four-channel JPEG is damaged: Pillow passes over libjpeg's warnings."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
    except ValueError as error:
        raise DataError(f"damaged JPEG: {error}") from error


def _flat_modes(picture: PIL.Image.Image, info: dict[str, Any]) -> PIL.Image.Image:
    """The picture as 8-bit L, LA, RGB, RGBA or CMYK."""
    transparent = info.get("transparency")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("32-bit pixels have no defined range")
        # (v · 255 / 65535), rounded
        scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
        if not isinstance(transparent, int):
            return PIL.Image.fromarray(scaled)
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        return PIL.Image.fromarray(np.dstack((scaled, alpha)), "LA")
    if picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and transparent is None:
        return picture
    if picture.mode == "F":
        raise DataError("floating-point pixels have no defined range")
    if transparent is not None or picture.mode in _ALPHA_MODES:
        return picture.convert("RGBA")
    return picture.convert("L" if picture.mode == "1" else "RGB")
