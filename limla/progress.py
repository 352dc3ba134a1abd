"""How long work reports itself: stages call a `Progress`, the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """A silent progress reporter, and the base of the command line's.

    Stages say `with progress.stage("re-encoding", total=600, unit="images") as advance: … advance(1)`.
    """

    @contextmanager
    def stage(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Open one measured stretch of work; yields `advance(n)`, to be called with each n units done.

        `total` counts the units that are still to do (None when unknown).
        """
        del description, total, unit
        yield lambda n: None

    def say(self, message: str) -> None:
        """Show one line about the work (a warning, a result, what was skipped)."""
        del message


SILENT = Progress()
