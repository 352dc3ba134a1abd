"""Where in a TOML file an entry stands: the standard parser does not say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from limla.errors import LimlaError, SettingsError

_HEADER = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*(?P<key>[A-Za-z0-9_.\"'-]+)\s*=")


class EntryError(SettingsError):
    """A mistake in one entry of a study.

    Attributes:
        path: names of tables and keys, and places in arrays.
    """

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


@contextmanager
def about_entry(*path: str | int) -> Iterator[None]:
    """Errors inside are about this entry: they become an `EntryError`."""
    try:
        yield
    except EntryError:
        raise
    except LimlaError as error:
        raise EntryError(path, str(error)) from error


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The number, from 1, of the line where an entry of a valid TOML text begins.

    Args:
        text: the file.
        path: names of tables and keys, and places in arrays: ("evaluation", "attacks", 1, "eps").

    An entry without a line of its own is found at the nearest one around it (an array's element at the array, what is
    missing from a table at the table's header). None when not even the first name occurs.
    """
    found: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line) if depth == 0 else None
        if header:
            table = _resolved(_names(header["name"]), counts)
            if header["open"] == "[[":
                place = counts.get(table, -1) + 1
                counts[table] = place
                found.setdefault(table, number)
                table = (*table, place)
            found.setdefault(table, number)
            continue
        key = _KEY.match(line) if depth == 0 else None
        if key:
            found.setdefault((*table, *_names(key["key"])), number)
        depth += _nesting(line)
    wanted = tuple(path)
    while wanted:
        if wanted in found:
            return found[wanted]
        inside = [number for place, number in found.items() if place[: len(wanted)] == wanted]
        if inside:
            return min(inside)
        wanted = wanted[:-1]
    return None


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _resolved(names: Sequence[str], counts: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """The path of a header: a name of an array of tables means its last table, but for the header's own name."""
    path: tuple[str | int, ...] = ()
    for position, name in enumerate(names):
        path = (*path, name)
        if path in counts and position < len(names) - 1:
            path = (*path, counts[path])
    return path


def _nesting(line: str) -> int:
    """How many brackets a line leaves open, outside its strings and comment."""
    bare = re.sub(r"\"(\\.|[^\"\\])*\"|'[^']*'", "", line).split("#", 1)[0]
    return sum(bare.count(character) for character in "[{") - sum(bare.count(character) for character in "]}")
