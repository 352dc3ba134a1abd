"""The child's side of a measurement: run one contender's work in a fresh process and time it.

The work is a generator function. Its first `yield` says that it is ready (imports are done; nothing else is, unless
the contender is a limit that starts from memory); each further one says how many images were finished since the one
before, as a number or as (part, number). Finishing includes ending the workers it started. What it returns are its
facts: with `check=True` also what is needed to see that all contenders did the same work. It raises
`MissingDependencyError` before the first `yield` when an optional package is not there.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from limla.errors import MissingDependencyError

Facts: TypeAlias = dict[str, Any]
Steps: TypeAlias = Generator[int | tuple[str, int], None, Facts | None]


@dataclass
class PartTime:
    """What one part of a pass took: images, wall-clock seconds, processor seconds of the process and its children."""

    num_images: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


@dataclass
class Pass:
    """One timed run of a contender's work.

    Attributes:
        parts: part name ("" where the work has no parts) → its times.
        first_batch_s: seconds from being ready to the first images.
        facts: what the work returned.
    """

    parts: dict[str, PartTime] = field(default_factory=dict)
    first_batch_s: float = 0.0
    facts: Facts = field(default_factory=dict)


def time_pass(work: Callable[..., Steps], arguments: dict[str, Any]) -> Pass:
    """Run the work once. A GPU in use is waited for before the clock starts, after every part, and at the end."""
    done = Pass()
    steps = work(**arguments)
    ready = next(steps)
    assert ready == 0, f"{work}: the first yield says that it is ready and counts no image"
    _synchronise()
    started = last = time.perf_counter()
    last_cpu = _cpu_s()
    part = ""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            step, done.facts = (part, 0), end.value or {}
            ended = True
        else:
            ended = False
        if ended or isinstance(step, tuple):
            _synchronise()
        now, now_cpu = time.perf_counter(), _cpu_s()
        part, number = step if isinstance(step, tuple) else ("", step)
        if number and not done.first_batch_s:
            done.first_batch_s = now - started
        if number or done.parts:
            times = done.parts.setdefault(part, PartTime())
            times.num_images += number
            times.seconds += now - last
            times.cpu_s += now_cpu - last_cpu
            last, last_cpu = now, now_cpu
        if ended:
            return done


def _cpu_s() -> float:
    """Processor seconds of this process and of the children it has waited for."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in usage)


def _synchronise() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def serve() -> None:
    """Read a job from standard input, answer one JSON line for each pass on the original standard output.

    The job: {"work": "module:function", "arguments", "warm_up": arguments of the untimed pass or None,
    "measure": False for the untimed pass alone}.
    """
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    job = json.loads(sys.stdin.read())
    module_name, function = job["work"].split(":")
    work = getattr(importlib.import_module(module_name), function)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        if job["warm_up"] is not None:
            answer(asdict(time_pass(work, job["warm_up"])))
        if job["measure"]:
            answer(asdict(time_pass(work, job["arguments"])))
    except MissingDependencyError as error:
        answer({"unavailable": str(error)})


def _end_with_parent(parent: int) -> None:
    """End this process and all that it started when the one that measures is gone: nobody removes what they write."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(os.getpid(), signal.SIGKILL)
