"""One function from an image member's bytes to pixels, for every format that can stand in a shard."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import PIL.Image

from limla.codecs.base import WEIGHTS, Codec, Learned, check_decoded_size
from limla.codecs.container import EXTENSION, read_container
from limla.codecs.jpeg import decode_jpeg
from limla.codecs.matching import BPP
from limla.errors import DataError, MissingDependencyError
from limla.paths import AnyPath
from limla.registry import CODECS
from limla.storage import read_bytes
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
    Pillow; any other extension through the codec of the catalogue that writes it, which a "laff" file names. Packing
    has made the pixels upright sRGB already: nothing is rotated here, gray is repeated. `fast` is for "jpg" alone, see
    `decode_jpeg`.

    Raises `DataError` for damaged data, more than `MAX_PIXELS`, an unknown extension, and a file of a learned codec,
    which only the codec with its weights reads (`learned_codec`). Thread-safe; both decoders release the GIL.
    """
    if extension == "jpg":
        return decode_jpeg(data, fast)
    if extension not in _FORMATS:
        return _codec_of(data, extension).decode(data)
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[_FORMATS[extension]]) as picture:
            check_decoded_size(picture.height, picture.width)
            return np.array(picture.convert("RGB"))
    except DAMAGE as error:
        raise DataError(f"not a decodable {_FORMATS[extension]} image: {error}") from error


def _codec_of(data: bytes | memoryview, extension: str) -> Codec:
    """The codec that wrote a file, by its extension or, of a `.laff` file, its header."""
    codec = _by_name(read_container(data).codec) if extension == EXTENSION else _by_extension(extension)
    if codec is None:
        raise DataError(
            f"a file of the learned codec '{read_container(data).codec}', which is read with its weights alone"
        )
    return codec


@functools.cache
def _by_extension(extension: str) -> Codec:
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


@functools.cache
def _by_name(name: str) -> Codec | None:
    """The codec that a header names, with its own settings; None for a learned one."""
    if name not in CODECS.plugs:
        raise DataError(f"a .laff file of codec '{name}', which this limla does not know")
    plug = CODECS.load(name)
    return None if issubclass(plug, Learned) else plug()


def learned_codec(name: str, folder: AnyPath) -> Codec | None:
    """The codec that reads a folder of shards written by a learned one, with the weights that lie there; else None.

    Args:
        name: of the codec in the folder's manifest.
        folder: holds `limla.codecs.base.WEIGHTS` where the codec is a learned one.

    Raises `DataError` where the weights are missing or damaged.
    """
    plug = CODECS.load(name.removesuffix(BPP)) if name.removesuffix(BPP) in CODECS.plugs else None
    if plug is None or not issubclass(plug, Learned):
        return None
    try:
        return plug.from_weights(read_bytes(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder / WEIGHTS}: missing, and without its weights codec '{name}' reads nothing; remove the folder "
            "and make it again"
        ) from error
