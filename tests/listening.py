"""A `Progress` for tests: keeps what a stage says and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from limla.progress import Progress


class Listening(Progress):
    """Keeps the lines that were said, and of the last stage how much was done of how much."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0
        self.total: int | None = None

    @contextmanager
    def stage(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Count from nothing."""
        del description, unit
        self.done, self.total = 0, total

        def advance(number: int) -> None:
            self.done += number

        yield advance

    def say(self, message: str) -> None:
        """Keep `message`, which must be one line."""
        assert "\n" not in message
        self.lines.append(message)
