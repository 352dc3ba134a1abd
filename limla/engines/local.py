"""This machine's cores: threads in one process, and more processes where there are many cores and shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from limla.engines.base import Item, Result, Share
from limla.engines.processes import map_in_processes
from limla.engines.threads import Meter, map_in_threads
from limla.errors import SettingsError

THREADS_PER_PROCESS = 8
"""Image codecs release the GIL, but what Python does between them is one core's work: it feeds about this many."""


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


class LocalEngine:
    """An ordered map over the cores of this machine.

    Args:
        num_workers: threads in all; None means one for each core this process may use.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        if num_workers is not None and num_workers < 1:
            raise SettingsError(f"{num_workers} workers: choose at least 1")
        self.num_workers = num_workers or usable_cores()

    @property
    def works_here(self) -> bool:
        """See `Engine`: with few cores."""
        return self.num_workers <= THREADS_PER_PROCESS

    def map(
        self,
        work: Callable[[Item, Share], Result],
        items: Sequence[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> Generator[Result, None, None]:
        """See `Engine.map`."""
        num_processes = min(-(-self.num_workers // THREADS_PER_PROCESS), len(items))
        meter = Meter(advance)
        if num_processes <= 1:
            results = map_in_threads(work, items, self.num_workers, meter)
        else:
            num_threads = -(-self.num_workers // num_processes)
            results = map_in_processes(work, items, num_processes, num_threads, meter)
        with closing(results):
            yield from results
        meter.flush()
