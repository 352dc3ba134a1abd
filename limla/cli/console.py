"""Progress on the console: a bar on a terminal, plain lines elsewhere; everything on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from limla.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ConsoleProgress(Progress):
    """Shows units done, units/s and the time left."""

    @contextmanager
    def stage(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """See `Progress.stage`."""
        shown = self._bar if sys.stderr.isatty() else self._lines
        with shown(description, total, unit) as advance:
            yield advance

    def say(self, message: str) -> None:
        """See `Progress.say`."""
        click.echo(message, err=True)

    @contextmanager
    def _bar(self, description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        started = time.monotonic()
        done = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total, rate="")

            def advance(number: int) -> None:
                nonlocal done
                done += number
                rate = done / max(time.monotonic() - started, 1e-9)
                bar.update(
                    task, advance=number, rate=f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"
                )

            yield advance

    @contextmanager
    def _lines(self, description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        started = last = time.monotonic()
        done = 0

        def line(now: float) -> str:
            rate = done / max(now - started, 1e-9)
            of_total = f"/{total}" if total is not None else ""
            left = (
                f", {_duration((total - done) / rate)} left" if total is not None and 0 < done < total else ""
            )
            return f"{description}: {done}{of_total} {unit}, {rate:.1f} {unit}/s{left}"

        def advance(number: int) -> None:
            nonlocal done, last
            done += number
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                self.say(line(now))

        yield advance
        self.say(f"{line(time.monotonic())}, took {_duration(time.monotonic() - started)}")
