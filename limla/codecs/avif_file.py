"""The structure of an AVIF file, checked before it is decoded.

libavif takes the size of an image from the file's boxes and, where the AV1 picture has another, scales it: a damaged
byte gives a picture that is wrong or as large as the byte says. So the two must agree here, in a file of the one kind
that `limla.codecs.avif` writes: one picture, without tiles of its own, turning, transparency or animation.

Boxes: ISO/IEC 14496-12 and 23008-12. Units of the bitstream (OBU): AV1 Bitstream & Decoding Process Specification, 5.3
to 5.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from limla.codecs.base import check_decoded_size
from limla.codecs.pillow import damaged
from limla.errors import DataError

_META = ["hdlr", "pitm", "iloc", "iinf", "iprp"]
_PROPERTIES = {"ispe", "pixi", "av1C", "colr"}
_ONE_ITEM = struct.Struct(">IBBHHHHII")
"""iloc: version and flags, widths of its numbers, items, the item's number, its file, extents, offset and length."""
_TEMPORAL_DELIMITER, _SEQUENCE_HEADER, _FRAME = b"\x12\x00", 0x0A, 0x32
_STILL_AND_REDUCED = 0b00011000


def check_file(view: memoryview) -> None:
    """Raise `DataError` unless a file is whole, of the kind above, and of at most `MAX_PIXELS` in boxes and picture."""
    try:
        boxes = list(_boxes(view))
        if [kind for kind, _ in boxes] != ["ftyp", "meta", "mdat"]:
            raise _other_kind()
        (_, meta), (_, media) = boxes[1:]
        parts = dict(_boxes(meta[4:]))
        if list(parts) != _META:
            raise _other_kind()
        *sizes, items, _, _, extents, offset, length = _ONE_ITEM.unpack(parts["iloc"])
        if sizes != [0, 0x44, 0] or (items, extents) != (1, 1) or view[offset : offset + length] != media:
            raise _other_kind()
        height, width = _told_size(parts["iprp"])
        check_decoded_size(height, width)
        if _picture_size(media) != (height, width):
            raise damaged("AVIF", "its boxes and its picture are not of one size")
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise damaged("AVIF", "its structure is damaged or cut off") from error


def _boxes(view: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The kind and contents of each box; together they fill `view`."""
    while len(view):
        length = struct.unpack_from(">I", view)[0]
        if not 8 <= length <= len(view):
            raise damaged("AVIF", "its structure is damaged or cut off")
        yield bytes(view[4:8]).decode("ascii"), view[8:length]
        view = view[length:]


def _told_size(properties: memoryview) -> tuple[int, int]:
    """(height, width) as the boxes say."""
    (kind, listed), *_ = _boxes(properties)
    found = list(_boxes(listed))
    kinds = [kind for kind, _ in found]
    if kind != "ipco" or len(set(kinds)) < len(kinds) or not set(kinds) <= _PROPERTIES or "ispe" not in kinds:
        raise _other_kind()
    width, height = struct.unpack(">4xII", dict(found)["ispe"])
    return height, width


def _picture_size(media: memoryview) -> tuple[int, int]:
    """(height, width) in the sequence header of a bitstream that is one still picture to its end."""
    if media[:2] != _TEMPORAL_DELIMITER or media[2] != _SEQUENCE_HEADER:
        raise _other_kind()
    length, start = _leb128(media, 3)
    header = media[start : start + length]
    if media[start + length] != _FRAME or header[0] & _STILL_AND_REDUCED != _STILL_AND_REDUCED:
        raise _other_kind()
    frame_length, frame = _leb128(media, start + length + 1)
    if frame + frame_length != len(media):
        raise damaged("AVIF", "its picture is cut off")
    bits, left = int.from_bytes(header, "big"), 8 * len(header) - 10  # profile, two flags, level

    def take(number: int) -> int:
        nonlocal left
        left -= number
        if left < 0:
            raise damaged("AVIF", "its picture has a damaged header")
        return bits >> left & (1 << number) - 1

    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    return height, width


def _leb128(view: memoryview, place: int) -> tuple[int, int]:
    """A number of AV1's variable length, and where what follows begins."""
    number = 0
    for count in range(8):
        byte = view[place + count]
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return number, place + count + 1
    raise damaged("AVIF", "its picture has a damaged header")


def _other_kind() -> DataError:
    return damaged("AVIF", "its structure is damaged, or of a kind this codec does not write")
