"""The engine socket: an ordered map over items (shards), nothing more.

The work is one call per item. The engine hands each call a `Share`: the means to spread the parts of its item
(a shard's images) over threads, and a way to say how far it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Share:
    """What an engine gives one call of the work; this base computes in the calling thread.

    Args:
        advance: called with the number of parts done since the last call.

    Attributes:
        num_threads: that compute the parts of all items here.
    """

    num_threads: int = 1

    def __init__(self, advance: Callable[[int], None] = lambda n: None) -> None:
        self.advance = advance

    def spread(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
        """`function` of each argument, in order; an engine may compute a bounded number of them ahead."""
        yield from map(function, arguments)


class Engine(Protocol):
    """Calls the work once per item, somewhere.

    An engine that does so in this process may say it by a true `works_here`: a stage then loads early what its work
    will need.
    """

    def map(
        self,
        work: Callable[[Item, Share], Result],
        items: Sequence[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> Generator[Result, None, None]:
        """`work(item, share)` for each item; the results come in the items' order.

        Close what is returned where it may not be read to its end: work under way is then stopped at once.

        Work, items and results must pickle: other processes or machines may do the work.

        An error of the work is raised at its item's place; work under way is then stopped. `advance` is
        called in this process, never from two threads at once, with sums of what the work reported.
        """
        ...
