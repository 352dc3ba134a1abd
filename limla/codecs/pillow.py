"""Pillow's readers and writers, as the codecs share them: bounded, every failure one of ours.

Of some damage in a TIFF file Pillow warns, and libtiff writes to stderr, and they go on. Both could be silenced for the
whole process alone, and so for other threads' warnings too: a codec leaves them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

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
    Warning,
)
"""What Pillow's readers raise for damage: it differs by format and by the byte that is hit; found by fuzzing. Its
warnings are raised where a user made warnings errors."""


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


def decode(
    data: bytes | memoryview,
    name: str,
    reader: type[ImageFile],
    check: Callable[[ImageFile], None] | None = None,
) -> Image:
    """A file as a new (H, W, 3) uint8 array: its first picture, gray repeated, transparency left out.

    Gray of 16 bits becomes 8 as packing has it, v · 255 / 65535 rounded; `check` may refuse what was read.

    `reader` is one of Pillow's classes; `PIL.Image.open` would warn, by a process-wide setting, of pictures that are
    large and allowed. Raises `DataError` for damage, and for more than `MAX_PIXELS` before they are decoded.
    """
    try:
        with reader(io.BytesIO(data)) as picture:
            check_decoded_size(picture.height, picture.width)
            picture.load()
            if check is not None:
                check(picture)
            if picture.mode.startswith("I"):
                picture = _eight_bits(picture)
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except DataError:  # of the size, or of `check`
        raise
    except DAMAGE as error:
        raise damaged(name, error) from error


def _eight_bits(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Gray of 16 bits, or of 32 that hold no more, as "L"; Pillow itself would clip it at 255."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no defined range")
    return PIL.Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


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
