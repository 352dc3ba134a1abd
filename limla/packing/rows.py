"""Many small records in one piece of memory: as Python objects each photo would take half a kilobyte."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

Row = TypeVar("Row")


class Rows(Sequence[Row]):
    """A sequence of records that can only grow; a record is made anew each time it is asked for. It pickles small.

    Costs the text of the fields, and 8 bytes plus one for each field. Fields hold no NUL, as no path does.

    Args:
        parse: makes a record of its fields' texts; a function of a module or class, so that it pickles.
        rows: the fields of each record, as `append` takes them.
    """

    def __init__(self, parse: Callable[..., Row], rows: Iterable[Iterable[object]] = ()) -> None:
        self._parse = parse
        self._text = bytearray()
        self._ends = array("Q", (0,))
        for fields in rows:
            self.append(*fields)

    def append(self, *fields: object) -> None:
        """Add one record; each field is kept as its `str`."""
        self._text += "\0".join(map(str, fields)).encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        place = range(len(self))[number]
        text = self._text[self._ends[place] : self._ends[place + 1]]
        return self._parse(*text.decode("utf-8", "surrogateescape").split("\0"))
