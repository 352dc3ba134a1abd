"""One function from an image member's bytes to pixels, for every format that can stand in a shard."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import PIL.Image

from limla.codecs.base import Codec
from limla.codecs.jpeg import decode_jpeg
from limla.errors import DataError, MissingDependencyError
from limla.registry import CODECS
from limla.types import Image

_FORMATS = {"png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
"""What Pillow's readers raise for damage: it differs by format and by the byte that is hit; found by fuzzing."""


def decode_image(data: bytes | memoryview, extension: str, fast: bool = False) -> Image:
    """Decode an image member of a shard to (H, W, 3) uint8 sRGB.

    "jpg" goes through libjpeg-turbo as `JpegCodec.decode` does; "png", "bmp", "tif" and "webp" go through
    Pillow; any other extension through the codec of the catalogue
    that writes it. Packing has made the pixels upright sRGB already: nothing is rotated here, gray is repeated.
    `fast` is for "jpg" alone, see `decode_jpeg`.

    Raises `DataError` for damaged data or an unknown extension. Thread-safe; both decoders release the GIL.
    """
    if extension == "jpg":
        return decode_jpeg(data, fast)
    if extension not in _FORMATS:
        return _codec_of(extension).decode(data)
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[_FORMATS[extension]]) as picture:
            return np.array(picture.convert("RGB"))
    except DAMAGE as error:
        raise DataError(f"not a decodable {_FORMATS[extension]} image: {error}") from error


@functools.cache
def _codec_of(extension: str) -> Codec:
    """The codec that writes files of this extension; `DataError` when no installed one does."""
    missing: list[str] = []
    for name in CODECS.names():
        try:
            plug = CODECS.load(name)
        except MissingDependencyError as error:
            missing.append(str(error))
            continue
        if plug.extension == extension:
            return plug()
    hint = f" ({'; '.join(missing)})" if missing else ""
    raise DataError(f"no decoder for '.{extension}': no codec of the catalogue writes it{hint}")
