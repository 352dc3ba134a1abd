"""What is particular to PNG; what every codec must do is in tests/contracts."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import png
from limla.codecs.base import MAX_PIXELS
from limla.codecs.png import PngCodec, decode_png
from limla.errors import DataError, SettingsError
from limla.pictures.policies import _flat_modes
from limla.types import Image
from tests.catalogue import SHAPES, decodes_or_data_error
from tests.conftest import natural_like


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The kind and contents of each chunk."""
    found: list[tuple[bytes, bytes]] = []
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A file of these chunks, each with its right checksum."""
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, contents in parts:
        pieces += [
            struct.pack(">I", len(contents)),
            kind,
            contents,
            struct.pack(">I", zlib.crc32(kind + contents)),
        ]
    return b"".join(pieces)


def saved(picture: PIL.Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_lossless(shape: tuple[int, int]) -> None:
    codec, image = PngCodec(), natural_like(*shape, seed=1)
    assert np.array_equal(codec.decode(codec.encode(image, 100)), image)


def test_the_file_is_of_pixels_alone_and_the_level_decides_its_length() -> None:
    image = natural_like(60, 80, seed=2)
    files = [PngCodec(level).encode(image, 100) for level in (1, 6, 9)]
    assert {kind for kind, _ in chunks(files[1])} == {b"IHDR", b"IDAT", b"IEND"}
    assert files == [saved(PIL.Image.fromarray(image), compress_level=level) for level in (1, 6, 9)]
    assert len(files[0]) > len(files[2])
    assert PngCodec(9).settings()["compress_level"] == 9


def test_what_cannot_be_is_refused_with_the_range() -> None:
    for level in (0, 10, -1):
        with pytest.raises(SettingsError, match="choose 1 to 9"):
            PngCodec(level)
    with pytest.raises(SettingsError, match="choose 100 to 100"):
        PngCodec().encode(natural_like(8, 8), 99)
    with pytest.raises(SettingsError, match="65501 pixels is too long for PNG: at most 65500"):
        PngCodec().encode(np.zeros((65501, 1, 3), np.uint8), 100)


def test_every_cut_and_every_changed_byte_of_the_pixels_is_seen() -> None:
    """Pillow alone decodes a file whose last 20 bytes are missing, and pixels whose checksum differs."""
    data = PngCodec().encode(natural_like(12, 17), 100)
    for length in range(len(data)):
        with pytest.raises(DataError):
            decode_png(data[:length])
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x10
        with pytest.raises(DataError):
            decode_png(bytes(changed))


def test_a_header_of_too_many_pixels_is_refused() -> None:
    parts = chunks(PngCodec().encode(natural_like(8, 8), 100))
    header = struct.pack(">II", 60000, 60000) + parts[0][1][8:]
    with pytest.raises(
        DataError, match=f"60000 × 60000 pixels; an image has at least 1 and at most {MAX_PIXELS}"
    ):
        decode_png(joined([(b"IHDR", header), *parts[1:]]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_kinds_that_packing_stores_decode_as_by_pillow(mode: str) -> None:
    pixels = natural_like(21, 34, seed=3)
    picture = PIL.Image.fromarray(pixels).convert(mode)
    assert np.array_equal(decode_png(saved(picture)), np.asarray(picture.convert("RGB")))


def test_gray_of_16_bits_is_scaled_as_packing_does() -> None:
    """Pillow's own conversion clips at 255."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = saved(PIL.Image.fromarray(values))
    decoded = decode_png(data)
    assert np.array_equal(decoded[..., 0], np.rint(values / 257))
    assert np.ptp(decoded, axis=2).max() == 0
    opened = PIL.Image.open(io.BytesIO(data))
    assert np.array_equal(decoded[..., 0], np.asarray(_flat_modes(opened, {}).convert("L")))


def uncompressed(
    height: int, width: int, rows: bytes, colours: int = 2, depth: int = 8, interlacing: int = 0
) -> bytes:
    """A file of these bytes, compressed into one whole zlib stream."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlacing)
    return joined([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


@pytest.mark.parametrize("num_rows", [1, 10, 63])
@pytest.mark.parametrize("value", [0, 200])
def test_fewer_rows_than_the_header_says_are_refused(num_rows: int, value: int) -> None:
    """Pillow alone leaves the rest black."""
    row = b"\0" + bytes([value]) * 192
    whole = decode_png(uncompressed(64, 64, 64 * row))
    assert (whole == value).all()
    with pytest.raises(DataError, match="fewer rows"):
        decode_png(uncompressed(64, 64, num_rows * row))
    with pytest.raises(DataError, match="truncated"):
        decode_png(uncompressed(64, 64, num_rows * row + row[:-1]))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize(("colours", "depth"), [(0, 1), (0, 16), (2, 8), (4, 8)])
def test_interlaced_files_are_counted_too(side: int, colours: int, depth: int) -> None:
    """By the seven passes of the standard, 8.2, pixel by pixel."""
    ranks = np.array([
        [1, 6, 4, 6, 2, 6, 4, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [3, 6, 4, 6, 3, 6, 4, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
    ])  # fmt: skip
    pixels = ranks[np.arange(side) % 8][:, np.arange(side + 3) % 8]
    bits = depth * {0: 1, 2: 3, 4: 2}[colours]
    in_rows = [int((row == rank).sum()) for rank in range(1, 8) for row in pixels]
    rows = [b"\0" + b"\x5a" * -(-count * bits // 8) for count in in_rows if count]
    decoded = decode_png(uncompressed(side, side + 3, b"".join(rows), colours, depth, 1))
    assert decoded.shape == (side, side + 3, 3)
    with pytest.raises(DataError, match="fewer rows"):
        decode_png(uncompressed(side, side + 3, b"".join(rows[:-1]), colours, depth, 1))


def test_a_header_of_more_pixels_than_the_bytes_can_hold_is_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    black = uncompressed(2000, 2000, bytes(2000 * 6001))
    assert not decode_png(black).any()  # the most that deflate does is allowed
    monkeypatch.setattr(png.pillow, "decode", lambda *_: pytest.fail("allocated"))
    with pytest.raises(DataError, match="too short for 67108865 × 1 pixels"):
        decode_png(uncompressed(67_108_865, 1, bytes(100)))


def test_long_rows_are_no_warning() -> None:
    """Pillow's crop warns of half of what is allowed: here of less, for memory's sake."""
    line = np.full((2, 70_000, 3), 9, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 66_000)
        decoded = decode_png(saved(PIL.Image.fromarray(line)))
    assert np.array_equal(decoded, line)


def test_a_second_header_is_refused() -> None:
    """Pillow believes the last one."""
    parts = chunks(PngCodec().encode(natural_like(8, 8), 100))
    for wrong in ([parts[0], *parts], parts[1:], [(b"IHDR", parts[0][1] + b"\0"), *parts[1:]]):
        with pytest.raises(DataError, match="only header"):
            decode_png(joined(wrong))
    with pytest.raises(DataError, match="colour type 5"):
        decode_png(uncompressed(2, 2, bytes(99), colours=5))


def test_what_pillow_would_warn_of_is_not_given_to_it() -> None:
    """Warnings are errors in these tests: transparency of a palette, an animation without pictures, metadata."""
    palette = PIL.Image.fromarray(natural_like(9, 11)).convert("P")
    expected: Image = np.asarray(palette.convert("RGB"))
    parts = chunks(saved(palette, transparency=bytes(range(256))))
    assert b"tRNS" in dict(parts)
    parts[1:1] = [(b"acTL", bytes(8)), (b"zTXt", b"\0"), (b"iCCP", b"x"), (b"eXIf", b"")]
    assert np.array_equal(decode_png(joined(parts)), expected)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_under_right_checksums(data: st.DataObject) -> None:
    """Chunks changed, dropped, doubled and swapped, each with its checksum: as a hostile file would."""
    parts = chunks(PngCodec(1).encode(natural_like(10, 14), 100))
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(parts) - 1))
        kind, contents = parts[number]
        what = data.draw(st.sampled_from(["change", "drop", "double", "move", "rename"]))
        if what == "change" and contents:
            place = data.draw(st.integers(0, len(contents) - 1))
            # not the sides, which decide how much is allocated: half a gigabyte is allowed
            place = max(place, 8) if kind == b"IHDR" else place
            parts[number] = (kind, contents[:place] + data.draw(st.binary(max_size=3)) + contents[place + 1 :])
        elif what == "drop" and len(parts) > 1:
            del parts[number]
        elif what == "double":
            parts.insert(number, parts[number])
        elif what == "move":
            parts.insert(data.draw(st.integers(0, len(parts) - 1)), parts.pop(number))
        elif what == "rename":
            parts[number] = (data.draw(st.sampled_from([b"PLTE", b"IDAT", b"IHDR", b"IEND"])), contents)
    decodes_or_data_error(decode_png, joined(parts))
