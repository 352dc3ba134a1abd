"""Reading strangers' pictures with many threads: how many pixels are in memory at once."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import PIL.Image
import pytest

from limla.errors import DataError
from limla.pictures import policies
from limla.pictures.policies import pixels_in_turn
from limla.pictures.room import Room
from tests.conftest import natural_like


def png(height: int, width: int) -> bytes:
    stored = io.BytesIO()
    PIL.Image.fromarray(natural_like(height, width)).save(stored, "PNG")
    return stored.getvalue()


def test_pixels_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(1000)
    monkeypatch.setattr(policies, "_room", room)
    lock, most, together = threading.Lock(), 0, 0
    inside: list[int] = []
    pictures = [png(20, 20), png(10, 10), png(40, 50), png(5, 7)] * 15  # 400, 100, 2000 and 35 pixels

    def use(data: bytes) -> None:
        nonlocal most, together
        with pixels_in_turn(data, 10**6) as image:
            num_pixels = image.shape[0] * image.shape[1]
            with lock:
                inside.append(num_pixels)
                most, together = max(most, sum(inside)), max(together, len(inside))
                assert len(inside) == 1 or sum(inside) <= 1000
            threading.Event().wait(0.001)
            with lock:
                inside.remove(num_pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, pictures))
    assert most == 2000, "larger than the room: alone"
    assert together > 1
    assert room._in_use == 0


def test_a_picture_that_fails_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(1000)
    monkeypatch.setattr(policies, "_room", room)
    for data in (png(20, 20)[:-30], b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(DataError), pixels_in_turn(data, 10**6):
            pass
    with pytest.raises(KeyboardInterrupt), pixels_in_turn(png(20, 20), 10**6):
        raise KeyboardInterrupt
    assert room._in_use == 0
