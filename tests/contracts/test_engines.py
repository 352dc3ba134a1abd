"""What every engine of the catalogue must do, then what is particular to the local one.

The work is defined here, in a module that other processes can import.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limla.engines.base import Engine, Share
from limla.engines.local import LocalEngine, usable_cores
from limla.engines.threads import Meter
from limla.errors import DataError, SettingsError
from limla.files import atomic_open
from limla.registry import ENGINES

# 1 and 2: threads of this process; 9 and 17: two and three worker processes
WORKERS = {"local": (1, 2, 9, 17), "spark": (None, 2)}


@dataclass(frozen=True)
class Squares:
    """Adds up the squares below the item; fails at items it is told of."""

    fails_at: int = -1
    seconds: float = 0.0

    def __call__(self, item: int, share: Share) -> tuple[int, int]:
        total = 0
        for square in share.spread(self._square, range(item)):
            total += square
            share.advance(1)
        if item == self.fails_at:
            raise DataError(f"item {item} is damaged")
        return item, total

    def _square(self, number: int) -> int:
        time.sleep(self.seconds)
        return number * number


def whereabouts(item: int, share: Share) -> tuple[int, set[str]]:
    """The process of the item, and the threads of its parts."""
    return os.getpid(), set(share.spread(_thread_name, range(40)))


def _thread_name(_: int) -> str:
    time.sleep(0.005)
    return threading.current_thread().name


def in_order(item: int, share: Share) -> list[int]:
    """Parts that take ever less time, so that the last ones are ready first."""

    def slow(number: int) -> int:
        time.sleep((20 - number) * 0.0005)
        return number

    return list(share.spread(slow, range(20)))


def fails_in_a_part(item: int, share: Share) -> None:
    def part(number: int) -> int:
        if number == 3:
            raise DataError("part 3 is damaged")
        return number

    for _ in share.spread(part, range(1000)):
        pass


def dies(item: int, share: Share) -> None:
    os._exit(3)


class StubbornError(Exception):
    """Does not pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def stubborn(item: int, share: Share) -> None:
    raise StubbornError("the cause", "more")


def our_bug(item: int, share: Share) -> None:
    assert item < 0, "a bug of ours"


def fills_the_disk(folder: str, share: Share) -> None:
    with atomic_open(Path(folder) / "shard.tar"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a failed write: without a name


@pytest.fixture(scope="module")
def spark() -> Iterator[None]:
    """One Spark context for all tests of this module: starting one takes seconds."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java: apt install default-jre-headless")
    from limla.engines.spark_context import start_context

    context = start_context("local[2]")
    yield
    context.stop()


@pytest.fixture(params=[(name, workers) for name in ENGINES.names() for workers in WORKERS[name]], ids=str)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine of the catalogue, small and large."""
    name, workers = request.param
    if name == "spark":
        request.getfixturevalue("spark")
    return ENGINES.load(name)(workers)


def test_results_come_in_the_items_order(engine: Engine) -> None:
    items = [7, 0, 30, 2, 2, 11]
    expected = [(item, sum(number * number for number in range(item))) for item in items]
    assert list(engine.map(Squares(), items)) == expected


def test_no_items_no_results(engine: Engine) -> None:
    assert list(engine.map(Squares(), [])) == []


def test_parts_come_in_order(engine: Engine) -> None:
    assert list(engine.map(in_order, [0, 1, 2])) == [list(range(20))] * 3


def test_every_part_is_reported_in_this_thread_or_under_a_lock(engine: Engine) -> None:
    inside = threading.Lock()
    reports: list[int] = []

    def advance(number: int) -> None:
        assert inside.acquire(blocking=False), "two reports at once"
        assert os.getpid() == here
        reports.append(number)
        inside.release()

    here = os.getpid()
    list(engine.map(Squares(seconds=0.0001), [100, 50, 70], advance))
    assert sum(reports) == 220
    assert all(number > 0 for number in reports)


def test_an_error_is_raised_at_its_place(engine: Engine) -> None:
    found: list[int] = []

    def consume() -> None:
        for item, _ in engine.map(Squares(fails_at=5), [3, 4, 5, 6, 7]):
            found.append(item)

    with pytest.raises(DataError, match="item 5 is damaged"):
        consume()
    assert found == [3, 4]


def test_an_error_of_a_part_is_raised(engine: Engine) -> None:
    with pytest.raises(DataError, match="part 3 is damaged"):
        list(engine.map(fails_in_a_part, [0, 1, 2]))


def test_a_full_disk_names_the_folder(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        list(engine.map(fills_the_disk, [str(tmp_path)]))
    assert caught.value.filename == str(tmp_path)


def test_a_bug_keeps_its_message(engine: Engine) -> None:
    with pytest.raises(AssertionError, match="a bug of ours"):
        list(engine.map(our_bug, [0, 1, 2]))


def test_leaving_early_stops_the_work(engine: Engine) -> None:
    results: Any = engine.map(Squares(seconds=0.001), [10, 100_000, 100_000, 100_000])
    assert next(results) == (10, 285)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("limla-")]


def test_results_do_not_depend_on_what_ran_before(engine: Engine) -> None:
    assert list(engine.map(Squares(), [4])) == list(engine.map(Squares(), [4])) == [(4, 14)]


# the local engine


def test_many_cores_and_items_are_several_processes() -> None:
    processes = {process for process, _ in LocalEngine(17).map(whereabouts, range(6))}
    assert len(processes) == 3
    assert os.getpid() not in processes


@pytest.mark.parametrize("workers", [2, 12])
def test_one_item_uses_all_the_threads(workers: int) -> None:
    ((process, threads),) = LocalEngine(workers).map(whereabouts, [0])
    assert process == os.getpid()
    assert len(threads) == workers


def test_two_items_on_many_cores_use_them_all() -> None:
    results = list(LocalEngine(24).map(whereabouts, [0, 1]))
    assert len({process for process, _ in results}) == 2
    assert [len(threads) for _, threads in results] == [12, 12]


def test_parts_are_computed_a_bounded_number_ahead() -> None:
    begun: list[int] = []
    most_ahead = 0

    def work(item: int, share: Share) -> None:
        nonlocal most_ahead
        for number in share.spread(begun.append, range(200)):
            assert number is None
            most_ahead = max(most_ahead, len(begun) - item)
            item += 1
            time.sleep(0.0005)

    list(LocalEngine(2).map(work, [0]))
    assert len(begun) == 200
    assert most_ahead <= 2 * 2 + 3


def test_arguments_are_read_a_bounded_number_ahead() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    def work(item: int, share: Share) -> list[int]:
        results = share.spread(abs, endless())
        found = [next(results) for _ in range(10)]
        results.close()
        return found

    assert list(LocalEngine(2).map(work, [0])) == [list(range(1, 11))]
    assert read <= 10 + 2 * 2 + 2


def test_a_killed_worker_is_an_os_error() -> None:
    with pytest.raises(ChildProcessError, match=r"a worker process was ended \(exit code 3\)"):
        list(LocalEngine(17).map(dies, [0, 1, 2]))


def test_an_error_that_does_not_pickle_keeps_its_text() -> None:
    with pytest.raises(RuntimeError, match="the cause"):
        list(LocalEngine(17).map(stubborn, [0, 1, 2]))


def test_a_workers_traceback_is_kept() -> None:
    with pytest.raises(AssertionError) as caught:
        list(LocalEngine(17).map(our_bug, [0, 1, 2]))
    assert "in our_bug" in "".join(caught.value.__notes__)


def test_the_number_of_workers_is_checked() -> None:
    assert LocalEngine().num_workers == usable_cores() == len(os.sched_getaffinity(0))
    with pytest.raises(SettingsError, match="0 workers: choose at least 1"):
        LocalEngine(0)


def test_a_meter_passes_on_every_unit() -> None:
    passed: list[int] = []
    meter = Meter(passed.append)
    for _ in range(1000):
        meter.add(3)
    meter.flush()
    meter.flush()
    assert sum(passed) == 3000
    assert len(passed) < 100
