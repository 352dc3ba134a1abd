"""The ordered map over the threads of one process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from limla.engines.base import Item, Result, Share

ITEMS_AT_ONCE = 2
"""Items under way in one process: while one is brought to disk, the next one keeps the cores busy."""
_SECONDS_BETWEEN_REPORTS = 0.1


class Meter:
    """Gathers many small reports into few calls; its `add` may be called from any thread."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self._waiting = 0
        self._last = 0.0

    def add(self, number: int) -> None:
        """Count `number` units done; passes the sum on about ten times a second."""
        with self._lock:
            self._waiting += number
            now = time.monotonic()
            if now - self._last >= _SECONDS_BETWEEN_REPORTS:
                self._last = now
                self._pass_on()

    def flush(self) -> None:
        """Pass on what is left."""
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        waiting, self._waiting = self._waiting, 0
        if waiting:
            self._advance(waiting)


class ThreadShare(Share):
    """Spreads an item's parts over a pool of threads that the items of this process share."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        num_threads: int,
        turn: threading.Lock,
        advance: Callable[[int], None],
    ) -> None:
        super().__init__(advance)
        self._pool = pool
        self.num_threads = num_threads
        self._depth = 2 * num_threads + 2
        self._turn = turn

    def spread(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
        """See `Share.spread`; at most 2 · threads + 2 results are computed ahead, so memory stays flat.

        One item at a time feeds the pool. The next one begins when the last part of this one is handed in,
        so the pool never runs dry between two items.
        """
        window: deque[Future[Any]] = deque()
        try:
            with self._turn:
                for argument in arguments:
                    if len(window) >= self._depth:
                        yield window.popleft().result()
                    window.append(self._pool.submit(function, argument))
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def map_in_threads(
    work: Callable[[Item, Share], Result], items: Iterable[Item], num_threads: int, meter: Meter
) -> Generator[Result, None, None]:
    """The ordered map within this process."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="limla-part")
    lanes = ThreadPoolExecutor(ITEMS_AT_ONCE, thread_name_prefix="limla-item")
    share = ThreadShare(pool, num_threads, threading.Lock(), meter.add)
    window: deque[Future[Result]] = deque()
    try:
        for item in items:
            # some more than are under way: where the second is done before the first, the third begins all the same
            if len(window) >= 2 * ITEMS_AT_ONCE:
                yield window.popleft().result()
            window.append(lanes.submit(work, item, share))
        while window:
            yield window.popleft().result()
    finally:
        # parts not yet begun are cancelled, which wakes the items that wait for them: they clean up and end
        pool.shutdown(wait=False, cancel_futures=True)
        lanes.shutdown(wait=True, cancel_futures=True)
        # the parts already under way end on their own, within the time of one image
        pool.shutdown(wait=True)
