"""The ordered map over worker processes, for machines with more cores than one interpreter can feed.

Each worker is a fresh interpreter joined by one socket. `multiprocessing` pools are not used: they import the
caller's main module again (a user's script without a guard would start itself), wait for running work when
interrupted, and leave idle orphans when the parent is killed. Here a worker whose socket closes ends at once,
so none outlives its parent, whatever ended that.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

from limla.engines.base import Item, Result, Share
from limla.engines.threads import ITEMS_AT_ONCE, Meter, ThreadShare

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from limla.engines.processes import serve; serve(int(sys.argv[2]))"
)


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, work: Callable[..., Any], num_threads: int) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is the parent's to handle
            )
        self.connection.send((work, num_threads))

    def give(self, number: int, item: Any) -> None:
        try:
            self.connection.send((number, item))
        except ConnectionError:
            raise self._ended() from None

    def receive(self) -> tuple[str, int, Any]:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._ended() from None

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def _ended(self) -> ChildProcessError:
        code = self.process.wait()
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = ", perhaps by the kernel for want of memory" if code == -signal.SIGKILL else ""
        return ChildProcessError(f"a worker process was ended ({cause}{hint})")


def map_in_processes(
    work: Callable[[Item, Share], Result],
    items: Sequence[Item],
    num_processes: int,
    num_threads: int,
    meter: Meter,
) -> Generator[Result, None, None]:
    """The ordered map over `num_processes` worker processes of `num_threads` threads each.

    `work` must be importable from a module other than the main one. Raises the work's first error at its
    item's place, `ChildProcessError` when a worker is killed.
    """
    waiting = deque(enumerate(items))
    done: dict[int, tuple[str, Any]] = {}
    workers: list[_Worker] = []
    try:
        for _ in range(num_processes):
            workers.append(_Worker(work, num_threads))
        for _ in range(ITEMS_AT_ONCE):
            for worker in workers:
                if waiting:
                    worker.give(*waiting.popleft())
        of_connection = {worker.connection: worker for worker in workers}
        for number in range(len(items)):
            while number not in done:
                for connection in wait(list(of_connection)):
                    worker = of_connection[connection]  # type: ignore[index]
                    kind, which, value = worker.receive()
                    if kind == "advance":
                        meter.add(value)
                        continue
                    done[which] = (kind, value)
                    if waiting and kind == "done":
                        worker.give(*waiting.popleft())
            kind, value = done.pop(number)
            if kind == "failed":
                raise value
            yield value
    finally:
        for worker in workers:
            worker.close()


def serve(descriptor: int) -> None:
    """The life of a worker process: answer items until the socket closes, then end at once."""
    connection = Connection(descriptor)
    lock = threading.Lock()

    def send(kind: str, number: int, value: Any) -> None:
        with lock:
            connection.send((kind, number, value))

    try:
        work, num_threads = connection.recv()
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="limla-part")
        lanes = ThreadPoolExecutor(ITEMS_AT_ONCE, thread_name_prefix="limla-item")
        meter = Meter(lambda count: send("advance", -1, count))
        share = ThreadShare(pool, num_threads, threading.Lock(), meter.add)

        def answer(number: int, item: Any) -> None:
            try:
                result = work(item, share)
                pickle.dumps(result)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the parent
                meter.flush()
                send("failed", number, portable(error))
            else:
                meter.flush()
                send("done", number, result)

        while True:
            lanes.submit(answer, *connection.recv())
    except (EOFError, ConnectionError):
        # the parent is gone or wants no more: threads may be deep in work, and nobody waits for it
        os._exit(0)


def portable(error: BaseException) -> BaseException:
    """`error` with the worker's traceback as a note, or a description of it when it does not pickle."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{text}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a stranger's exception does when pickled
        return RuntimeError(f"an error that does not pickle, in a worker process:\n{text}")
    return error
