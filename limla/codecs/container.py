"""limla's own file, `.laff`: a versioned header with checksums around a bitstream that has no file format of its own.

    offset  bytes  what
    0       4      "LAFF"
    4       1      version of the container, 1
    5       1      n, the length of the codec's name
    6       n      the codec's name in the catalogue, ASCII
    6 + n   4      height in pixels, big-endian, as every number here
    10 + n  4      width
    14 + n  4      number of bytes of the body
    18 + n  4      CRC-32 (zlib's) of the body
    22 + n  4      CRC-32 of all before
    26 + n         the body, to the end of the file

A body that is cut off is seen by its length, and a progressive codec may still read it; it then has checksums of its
own. The whole header counts as bits of the image, as any file's does.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from limla.codecs.base import check_decoded_size
from limla.errors import DataError

EXTENSION = "laff"
MAGIC = b"LAFF"
VERSION = 1
_NUMBERS = struct.Struct(">IIII")
_CHECKSUM = struct.Struct(">I")
_LONGEST_NAME = 32
LONGEST_SIDE = 65500
"""Of the images that codecs in this container take, as of JPEG."""


@dataclass(frozen=True)
class Contents:
    """What a `.laff` file holds.

    Attributes:
        codec: name in the catalogue.
        height, width: pixels, at most `limla.codecs.base.MAX_PIXELS` in all.
        body: the codec's bitstream, a view of the file; `num_bytes` long unless cut off.
        num_bytes: of the whole body.
        checksum: CRC-32 of the whole body.
    """

    codec: str
    height: int
    width: int
    body: memoryview
    num_bytes: int
    checksum: int

    @property
    def is_whole(self) -> bool:
        """Whether all of the body is there."""
        return len(self.body) == self.num_bytes


def write_container(codec: str, height: int, width: int, body: bytes) -> bytes:
    """The file of an image of `height` × `width` pixels."""
    name = codec.encode("ascii")
    assert 0 < len(name) <= _LONGEST_NAME, codec
    before = b"".join(
        (MAGIC, bytes((VERSION, len(name))), name, _NUMBERS.pack(height, width, len(body), zlib.crc32(body)))
    )
    return b"".join((before, _CHECKSUM.pack(zlib.crc32(before)), body))


def read_container(data: bytes | memoryview) -> Contents:
    """The header of a file and the body, which may be cut off and is not checked.

    Raises `DataError` for a header that is damaged, incomplete or of a later version, for more pixels than
    `MAX_PIXELS`, and for bytes after the body.
    """
    view = memoryview(data)
    if view[:4] != MAGIC or len(view) < 6:
        raise DataError("not a .laff file: it does not begin with LAFF")
    if view[4] != VERSION:
        raise DataError(
            f"a .laff file of version {view[4]}, and this limla reads version {VERSION}: use a later limla"
        )
    start = 6 + view[5]
    end = start + _NUMBERS.size
    if view[5] > _LONGEST_NAME or len(view) < end + _CHECKSUM.size:
        raise DataError("a .laff file whose header is damaged or cut off")
    if _CHECKSUM.unpack_from(view, end)[0] != zlib.crc32(view[:end]):
        raise DataError("a .laff file whose header is damaged: its checksum differs")
    try:
        name = bytes(view[6:start]).decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError("a .laff file whose header is damaged: its codec has no name") from error
    height, width, num_bytes, checksum = _NUMBERS.unpack_from(view, start)
    check_decoded_size(height, width)
    body = view[end + _CHECKSUM.size :]
    if len(body) > num_bytes:
        raise DataError(f"a .laff file with {len(body) - num_bytes} bytes after its end")
    return Contents(name, height, width, body, num_bytes, checksum)


def read_whole(data: bytes | memoryview, codec: str) -> Contents:
    """A file of `codec` with its body, whole and equal to what was written.

    Raises `DataError` as `read_container`, and for a body that is cut off or damaged, or another codec's.
    """
    contents = read_container(data)
    if contents.codec != codec:
        raise DataError(f"a .laff file of codec '{contents.codec}', not of {codec}")
    if not contents.is_whole:
        raise DataError(
            f"a .laff file that is cut off: {len(contents.body)} of {contents.num_bytes} bytes of its body are there"
        )
    if zlib.crc32(contents.body) != contents.checksum:
        raise DataError("a .laff file whose body is damaged: its checksum differs")
    return contents
