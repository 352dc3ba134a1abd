"""One function from an image member's bytes to pixels, for every format that can stand in a shard."""

from __future__ import annotations

import functools
import hashlib

from limla.codecs.base import WEIGHTS, Codec, Learned
from limla.codecs.container import EXTENSION, read_container
from limla.codecs.jpeg import decode_jpeg
from limla.codecs.matching import BPP
from limla.codecs.pillow import decode_bmp, decode_tiff
from limla.codecs.png import decode_png
from limla.codecs.webp import decode_webp
from limla.errors import DataError, MissingDependencyError
from limla.paths import AnyPath
from limla.registry import CODECS
from limla.storage import read_bytes
from limla.types import Image

_READERS = {"jpg": decode_jpeg, "png": decode_png, "webp": decode_webp, "bmp": decode_bmp, "tif": decode_tiff}
"""Of the formats that packing stores. The rest are found in the catalogue, which may import much for it."""


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
    reader = _READERS.get(extension)
    return _codec_of(data, extension).decode(data) if reader is None else reader(data)


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


def extension_of(codec: str) -> str:
    """The extension of what a codec of the catalogue writes, by its name; "" for one that is not known here."""
    name = codec.removesuffix(BPP)
    return CODECS.load(name).extension if name in CODECS.plugs else ""


def is_learned(text: str) -> bool:
    """Whether a codec's text, or its label in rows, names a learned codec of the catalogue."""
    name = text.partition(":")[0].removesuffix(BPP)
    return name in CODECS.plugs and issubclass(CODECS.load(name), Learned)


def stored_weights(codec: str, folder: AnyPath, recorded: str = "") -> bytes:
    """The weights that lie in a folder of what a learned codec wrote.

    Args:
        codec: its name, for the message.
        folder: holds `limla.codecs.base.WEIGHTS`.
        recorded: the first hex digits of their SHA-256, as `Codec.settings` has them; "" checks nothing.

    Raises `DataError` where they are missing, or are not those.
    """
    path = folder / WEIGHTS
    try:
        data = read_bytes(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, and without its weights codec '{codec}' reads nothing; run limla reencode again"
        ) from error
    if not hashlib.sha256(data).hexdigest().startswith(recorded):
        raise DataError(
            f"{path}: altered since it was made (its SHA-256 does not begin with {recorded}); run limla reencode again"
        )
    return data


def learned_codec(name: str, folder: AnyPath) -> Codec | None:
    """The codec that reads a folder of shards written by a learned one, with the weights that lie there; else None.

    Args:
        name: of the codec in the folder's manifest.
        folder: holds `limla.codecs.base.WEIGHTS` where the codec is a learned one.

    Raises `DataError` where the weights are missing or damaged.
    """
    if not is_learned(name):
        return None
    data = stored_weights(name, folder)
    try:
        return CODECS.load(name.removesuffix(BPP)).from_weights(data)
    except DataError as error:
        raise DataError(f"{folder / WEIGHTS}: {error}; run limla reencode again") from error
