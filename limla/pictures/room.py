"""How many pixels many threads hold at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """So many pixels may be in use at once; whoever came first is served first, so that large ones get their turn."""

    def __init__(self, num_pixels: int) -> None:
        self._num_pixels = num_pixels
        self._in_use = 0
        self._entrance = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        """Hold room for so many during the block; more than there is at all is held alone."""
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: not self._in_use or self._in_use + num_pixels <= self._num_pixels)
            self._in_use += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= num_pixels
                self._changed.notify_all()
