"""The `.laff` container: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limla.codecs.base import MAX_PIXELS
from limla.codecs.container import read_container, read_whole, write_container
from limla.errors import DataError


@given(
    codec=st.from_regex(r"[a-z0-9]{1,12}(-[a-z]{1,6})?", fullmatch=True),
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    body=st.binary(max_size=300),
)
def test_what_is_written_is_read(codec: str, height: int, width: int, body: bytes) -> None:
    data = write_container(codec, height, width, body)
    assert len(data) == 26 + len(codec) + len(body)
    contents = read_whole(memoryview(data), codec)
    assert (contents.codec, contents.height, contents.width, bytes(contents.body)) == (
        codec,
        height,
        width,
        body,
    )


@given(place=st.integers(0, 10**6), value=st.integers(1, 255))
def test_every_byte_is_protected(place: int, value: int) -> None:
    data = bytearray(write_container("svd", 30, 40, bytes(range(100))))
    data[place % len(data)] ^= value
    with pytest.raises(DataError):
        read_whole(bytes(data), "svd")


def test_a_file_cut_off_keeps_its_header() -> None:
    data = write_container("svd", 30, 40, b"0123456789")
    contents = read_container(data[:-4])
    assert (bytes(contents.body), contents.num_bytes, contents.is_whole) == (b"012345", 10, False)
    with pytest.raises(DataError, match="cut off: 6 of 10 bytes"):
        read_whole(data[:-4], "svd")
    for length in range(29):
        with pytest.raises(DataError):
            read_container(data[:length])


def test_what_is_another_file_says_so() -> None:
    data = write_container("svd", 30, 40, b"0123456789")
    with pytest.raises(DataError, match="of codec 'svd', not of lowrank"):
        read_whole(data, "lowrank")
    with pytest.raises(DataError, match="3 bytes after its end"):
        read_whole(data + b"abc", "svd")
    with pytest.raises(DataError, match="does not begin with LAFF"):
        read_whole(b"\x89PNG" + data, "svd")
    with pytest.raises(DataError, match="of version 2, and this limla reads version 1"):
        read_container(data[:4] + b"\2" + data[5:])


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (2**32 - 1, 2**32 - 1), (MAX_PIXELS, 2)])
def test_impossible_sizes_are_refused(height: int, width: int) -> None:
    with pytest.raises(DataError, match="an image has at least 1 and at most"):
        read_container(write_container("svd", height, width, zlib.compress(b"x")))
