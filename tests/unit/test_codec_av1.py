"""What is particular to AV1."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from limla.codecs.av1 import Av1Codec
from limla.codecs.container import read_whole, write_container
from limla.errors import DataError, SettingsError
from tests.conftest import natural_like

DELIMITER = b"\x12\x00"


def stream_of(height: int, width: int, quality: int = 30) -> bytes:
    codec = Av1Codec()
    return bytes(read_whole(codec.encode(natural_like(height, width), quality), "av1").body)


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((1, 1), (4, 4)),
        ((3, 5), (4, 6)),
        ((17, 15), (18, 16)),
        ((33, 47), (34, 48)),
        ((64, 64), (64, 64)),
        ((271, 481), (272, 482)),
    ],
)
def test_the_header_says_the_even_sides(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    stream = stream_of(*shape, 63)
    assert stream.startswith(DELIMITER)
    assert Av1Codec().coded_sides(stream) == sides


def test_a_picture_that_is_cut_off_is_refused() -> None:
    body = stream_of(40, 56)
    for length in range(0, len(body), 7):
        with pytest.raises(DataError):
            Av1Codec().decode(write_container("av1", 40, 56, body[:length]))


def test_streams_of_other_units_are_refused() -> None:
    codec, body = Av1Codec(), stream_of(40, 56)
    length = body[3]
    sequence, picture = body[2 : 4 + length], body[4 + length :]
    assert codec.coded_sides(DELIMITER + sequence + picture) == (40, 56)
    for units in ((sequence, picture), (DELIMITER, sequence), (DELIMITER, sequence, picture, picture)):
        with pytest.raises(DataError, match="not one picture"):
            codec.coded_sides(b"".join(units))
    for wrong in (
        b"\x92\x00",
        b"\x16\x00",
        b"\x10\x00",
        b"\x13\x00",
    ):  # forbidden, extension, no size, reserved
        with pytest.raises(DataError, match="another form"):
            codec.coded_sides(wrong + sequence + picture)
    for wrong in (b"\x12", b"\x12" + b"\x80" * 9, b"\x12\x05"):
        with pytest.raises(DataError, match="cut off"):
            codec.coded_sides(wrong)
    with pytest.raises(DataError, match="main profile"):
        codec.coded_sides(DELIMITER + sequence[:2] + bytes((sequence[2] | 0x20,)) + sequence[3:] + picture)


def test_the_long_form_of_the_header_is_read_too() -> None:
    """Of streams by other encoders (AV1 specification, 5.5.1): not a still picture, one operating point."""
    fields = ((0, 3), (0, 1), (0, 1), (0, 7), (0, 12), (8, 5), (0, 1), (5, 4), (6, 4), (55, 6), (39, 7), (0, 5))
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    header = int(bits, 2).to_bytes(len(bits) // 8, "big")
    body = stream_of(40, 56)
    picture = body[4 + body[3] :]
    assert Av1Codec().coded_sides(DELIMITER + bytes((0x0A, len(header))) + header + picture) == (40, 56)


def test_svts_own_variable_is_left_where_a_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    stream_of(16, 16)
    assert os.environ["SVT_LOG"] == "1"
    monkeypatch.delenv("SVT_LOG")
    stream_of(16, 16)
    assert os.environ["SVT_LOG"] == "0"


def test_svts_threads_end_with_the_picture() -> None:
    stream_of(16, 16)
    before = len(list(Path("/proc/self/task").iterdir())), threading.active_count()
    for _ in range(5):
        stream_of(64, 64)
    assert (len(list(Path("/proc/self/task").iterdir())), threading.active_count()) == before


def test_its_caller_stays_an_ordinary_thread() -> None:
    # SVT-AV1 makes it a real-time one where it may, and the threads that it starts later with it
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    Av1Codec().encode(natural_like(64, 64), 40)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
    with pytest.raises(SettingsError):
        Av1Codec().encode(natural_like(64, 64), 64)
    assert os.sched_getscheduler(0) == before[0]
