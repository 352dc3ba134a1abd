"""Pillow's readers and writers, as the codecs share them: bounded, without warnings, every failure one of ours."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL
import PIL.features
import PIL.Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from limla.codecs.base import check_decoded_size
from limla.errors import DataError, MissingDependencyError, SettingsError
from limla.types import Image

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
"""What Pillow's readers raise for damage: it differs by format and by the byte that is hit; found by fuzzing."""


def encode(image: Image, name: str, **options: object) -> bytes:
    """An (H, W, 3) uint8 sRGB image as a file of Pillow's format `name`, with its writer's options.

    Raises `SettingsError` with the library's reason where it cannot write the image.
    """
    file = io.BytesIO()
    try:
        PIL.Image.fromarray(np.ascontiguousarray(image)).save(file, name, **options)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        height, width = image.shape[:2]
        raise SettingsError(f"{height} × {width} pixels cannot be written as {name}: {error}") from error
    return file.getvalue()


def decode(data: bytes | memoryview, name: str, reader: type[ImageFile]) -> Image:
    """A file as a new (H, W, 3) uint8 array: its first picture, gray repeated, transparency left out.

    `reader` is one of Pillow's classes; `PIL.Image.open` would warn, by a process-wide setting, of pictures that are
    large and allowed. Raises `DataError` for damage, and for more than `MAX_PIXELS` before they are decoded.
    """
    try:
        with reader(io.BytesIO(data)) as picture:
            check_decoded_size(picture.height, picture.width)
            picture.load()
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except DataError:  # of the size
        raise
    except DAMAGE as error:
        raise damaged(name, error) from error


def decode_bmp(data: bytes | memoryview) -> Image:
    """See `decode`."""
    return decode(data, "BMP", BmpImageFile)


def decode_tiff(data: bytes | memoryview) -> Image:
    """See `decode`."""
    return decode(data, "TIFF", TiffImageFile)


def damaged(name: str, reason: object) -> DataError:
    """The error of a file that is not a decodable image of format `name`."""
    return DataError(f"not a decodable {name} image: {reason}")


def check_installed(feature: str, codec: str) -> None:
    """Raise `MissingDependencyError` where the installed Pillow was built without a codec's library."""
    if not PIL.features.check(feature):
        raise MissingDependencyError(
            f"codec '{codec}' needs a Pillow with {feature}, and the installed one was built without: "
            "pip install --force-reinstall pillow"
        )


def version(library: str, feature: str) -> str:
    """Pillow's version and that of the library behind a format."""
    return f"Pillow {PIL.__version__}, {library} {PIL.features.version(feature)}"
