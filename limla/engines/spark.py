"""Apache Spark: the ordered map over the executors of a cluster (docs/cluster.md).

Spark only maps. One job holds one task per item; a task calls the work and brings its result home in an accumulator,
which Spark updates on the driver as each task ends, and once for each task whatever was tried twice. An error of
the work is such a result too: Spark tries again only what it lost itself, an executor or a Python worker, and
never what is wrong with the data. The work must therefore bear being done twice, also at the same time.
"""

from __future__ import annotations

import os
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from py4j.protocol import Py4JError
from pyspark import SparkContext, TaskContext
from pyspark.accumulators import Accumulator, AccumulatorParam
from pyspark.errors import PySparkException

from limla.engines.base import Item, Result, Share
from limla.engines.processes import portable
from limla.engines.spark_context import check_java, check_master, reason, start_context, stop_context
from limla.engines.threads import Meter, map_in_threads
from limla.errors import SettingsError

SECONDS_WITHOUT_WORK = 120.0
"""So long may a job wait without any task running, before that is an error."""
_SECONDS_BETWEEN_LOOKS = 0.05


class SparkEngine:
    """An ordered map over Spark's executors.

    A context that is there already is used and left running; else one is started for each map and ended after it.

    Args:
        num_workers: threads of each task, asked of Spark as `spark.task.cpus`; None takes what Spark is set to (one
            core), and more where there are fewer items than cores.
        master: Spark's master URL; None takes that of Spark's own configuration, or `local[*]`.

    Raises `MissingDependencyError` without Java, `SettingsError` when a `spark://` master does not answer.
    """

    takes_master: ClassVar[bool] = True

    def __init__(self, num_workers: int | None = None, master: str | None = None) -> None:
        if num_workers is not None and num_workers < 1:
            raise SettingsError(f"{num_workers} workers: choose at least 1")
        self.num_workers = num_workers
        self.master = master
        if SparkContext._active_spark_context is None:
            check_java()
            check_master(master)

    def map(
        self,
        work: Callable[[Item, Share], Result],
        items: Sequence[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> Generator[Result, None, None]:
        """See `Engine.map`; progress moves as items are finished.

        Raises `SettingsError` when the cluster cannot be had or gives no executor for `SECONDS_WITHOUT_WORK`,
        `ChildProcessError` when Spark lost the same item too often.
        """
        if not items:
            return
        active = SparkContext._active_spark_context
        context = active or start_context(self.master, self.num_workers)
        try:
            with closing(_begin(context, work, items, self.num_workers)) as job:
                yield from job.results(advance)
        finally:
            if active is None:
                stop_context(context)


class _Answer(NamedTuple):
    """What a task brings home: the item's number, its pickled result or error, and how many parts it reported."""

    number: int
    failed: bool
    data: bytes
    num_parts: int


class _Gathered(AccumulatorParam[list[_Answer]]):
    """Lists of answers, put together."""

    def zero(self, value: list[_Answer]) -> list[_Answer]:
        return []

    def addInPlace(  # noqa: N802 (Spark's name)
        self, value1: list[_Answer], value2: list[_Answer]
    ) -> list[_Answer]:
        value1.extend(value2)
        return value1


@dataclass(frozen=True)
class _Task:
    """What a task does, in a Python worker of an executor.

    Attributes:
        work: pickled.
        folder: the driver's working folder, so that relative paths mean the same where it exists.
        num_threads: None for the task's cores, and more where there are fewer items than cores.
        cores_per_item: of the cluster; 0 where there are more items than cores.
        answers: the accumulator.
    """

    work: bytes
    folder: str
    num_threads: int | None
    cores_per_item: int
    answers: Accumulator[list[_Answer]]

    def __call__(self, items: Iterable[tuple[int, bytes]]) -> None:
        with suppress(OSError):
            os.chdir(self.folder)
        for number, item in items:
            self.answers.add([self._answer(number, item)])

    def _answer(self, number: int, item: bytes) -> _Answer:
        parts: list[int] = []
        meter = Meter(parts.append)
        try:
            results = map_in_threads(pickle.loads(self.work), [pickle.loads(item)], self._threads(), meter)
            with closing(results):
                data = pickle.dumps(next(results))
            failed = False
        except Exception as error:  # noqa: BLE001 - it is raised again on the driver
            data, failed = pickle.dumps(portable(error)), True
        meter.flush()
        return _Answer(number, failed, data, sum(parts))

    def _threads(self) -> int:
        if self.num_threads:
            return self.num_threads
        context = TaskContext.get()
        assert context is not None
        here = len(os.sched_getaffinity(0))
        return max(context.cpus(), min(self.cores_per_item, here))


class _Job:
    """One Spark job: its tasks run while the driver takes their answers in the items' order."""

    def __init__(
        self,
        context: SparkContext,
        work: Callable[..., Any],
        items: Sequence[Any],
        num_threads: int | None,
    ) -> None:
        self._context = context
        self._num_items = len(items)
        self._answers = context.accumulator(list[_Answer](), _Gathered())
        self._num_taken = 0
        self._tag = f"limla-{secrets.token_hex(8)}"
        self._error: Exception | None = None
        self._is_stalled = False
        self._ended = threading.Event()
        cores = context.defaultParallelism
        task = _Task(pickle.dumps(work), str(Path.cwd()), num_threads, cores // self._num_items, self._answers)
        numbered = [(number, pickle.dumps(item)) for number, item in enumerate(items)]
        self._rdd = context.parallelize(numbered, len(numbered))
        self._threads = [
            threading.Thread(target=target, args=args, name=f"limla-spark-{name}", daemon=True)
            for name, target, args in (("job", self._run, (task,)), ("watch", self._watch, ()))
        ]
        for thread in self._threads:
            thread.start()

    def results(self, advance: Callable[[int], None]) -> Generator[Any, None, None]:
        """The results in the items' order; an error of the work is raised at its place."""
        done: dict[int, _Answer] = {}
        for number in range(self._num_items):
            while number not in done:
                # every answer is here before its job ends, so the order of these two matters
                is_over = self._ended.is_set()
                for answer in self._take():
                    if answer.number not in done and answer.number >= number:
                        done[answer.number] = answer
                        if answer.num_parts:
                            advance(answer.num_parts)
                if number not in done:
                    if is_over:
                        raise self._failure()
                    self._ended.wait(_SECONDS_BETWEEN_LOOKS)
            answer = done.pop(number)
            value = pickle.loads(answer.data)
            if answer.failed:
                raise value
            yield value

    def close(self) -> None:
        """Cancel what is still to do; tasks under way are killed within seconds."""
        if not self._ended.is_set():
            with suppress(Py4JError, OSError):
                self._context.cancelJobsWithTag(self._tag)
        self._ended.wait(5)
        self._ended.set()
        for thread in self._threads:
            thread.join(5)

    def _take(self) -> list[_Answer]:
        answers = self._answers.value[self._num_taken :]
        self._num_taken += len(answers)
        return answers

    def _run(self, task: _Task) -> None:
        try:
            self._context.addJobTag(self._tag)
            self._rdd.foreachPartition(task)
        except (Py4JError, PySparkException, OSError, EOFError) as error:
            self._error = error
        finally:
            self._ended.set()

    def _watch(self) -> None:
        """Give up a job that no executor works on."""
        tracker = self._context.statusTracker()
        last_seen = time.monotonic()
        while not self._ended.wait(1):
            try:
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            except (Py4JError, OSError):
                return  # the job's own thread tells why
            if any(stage.numActiveTasks for stage in stages if stage is not None):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > SECONDS_WITHOUT_WORK:
                self._is_stalled = True
                with suppress(Py4JError, OSError):
                    self._context.cancelJobsWithTag(self._tag)
                return

    def _failure(self) -> Exception:
        master = self._context.master
        if self._is_stalled:
            memory = self._context.getConf().get("spark.executor.memory", "1g")
            return SettingsError(
                f"{master}: no executor took any work for {SECONDS_WITHOUT_WORK:g} s: are workers there, with a free "
                f"core and {memory} of memory each? (the master's web page shows them)"
            )
        assert self._error is not None
        return reason(self._context, self._error)


def _begin(
    context: SparkContext, work: Callable[..., Any], items: Sequence[Any], num_threads: int | None
) -> _Job:
    """Start a job; a context may have ended by itself since it was made, when its master never answered."""
    try:
        return _Job(context, work, items, num_threads)
    except (Py4JError, PySparkException) as error:
        raise reason(context, error) from error
