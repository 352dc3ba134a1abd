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
from limla.engines.spark_context import (
    check_java,
    check_master,
    end_java,
    reason,
    start_context,
    start_java,
    stop_context,
)
from limla.engines.threads import Meter, map_in_threads
from limla.errors import SettingsError
from limla.progress import SILENT, Progress

SECONDS_WITHOUT_WORK = 120.0
"""So long may a job wait without any task running, before that is an error."""
SECONDS_WITHOUT_NEWS = 15.0
"""So long after the last item was finished, the user is told that the others are under way; then again."""
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_BETWEEN_LOOKS_AT_SPARK = 0.5
_SECONDS_TO_END = 5.0
"""So long an interrupted map waits for Spark to end in order, before Java is told to."""


class SparkEngine:
    """An ordered map over Spark's executors.

    A context that is there already is used and left running; else one is started for each map and ended after it.

    Args:
        num_workers: threads of each task, asked of Spark as `spark.task.cpus`; None takes what Spark is set to (one
            core), and more where there are fewer items than cores.
        master: Spark's master URL; None takes that of Spark's own configuration, or `local[*]`.
        progress: is told when Spark is started, and how many items are done when none was finished for a while.

    Raises `MissingDependencyError` without Java, `SettingsError` for what is no master URL, and when a `spark://`
    master does not answer.
    """

    takes_master: ClassVar[bool] = True

    def __init__(
        self, num_workers: int | None = None, master: str | None = None, progress: Progress = SILENT
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise SettingsError(f"{num_workers} workers: choose at least 1")
        self.num_workers = num_workers
        self.master = master
        self._progress = progress
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
        with closing(_Job(self.master, self.num_workers, work, items)) as job:
            yield from job.results(advance, self._progress)


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
    """One Spark job: its tasks run while the driver takes their answers in the items' order.

    Spark is started, asked and ended in threads of this object. Python raises Ctrl-C in its main thread, and a call
    into Java that it broke off would be told with its trace, and leave an answer behind that the next call takes for
    its own.
    """

    def __init__(
        self, master: str | None, num_workers: int | None, work: Callable[..., Any], items: Sequence[Any]
    ) -> None:
        self._master = master
        self._num_workers = num_workers
        self._work = pickle.dumps(work)
        self._items = [(number, pickle.dumps(item)) for number, item in enumerate(items)]
        self._answers: Accumulator[list[_Answer]] | None = None
        self._num_taken = 0
        self._num_under_way = 0
        self._is_over = False
        self._error: Exception | None = None
        self._stall: SettingsError | None = None
        self._is_given_up = False
        self._ended = threading.Event()
        self._is_called = threading.Event()  # to look now: it has ended, or was given up
        self._active = SparkContext._active_spark_context
        self._thread = threading.Thread(target=self._run, name="limla-spark-job", daemon=True)
        self._thread.start()

    def results(self, advance: Callable[[int], None], progress: Progress) -> Generator[Any, None, None]:
        """The results in the items' order; an error of the work is raised at its place."""
        news = _News(progress, len(self._items))
        if self._active is None:
            news.starting(self._master)
        done: dict[int, _Answer] = {}
        for number in range(len(self._items)):
            while number not in done:
                # every answer is here before its job ends, so the order of these two matters
                is_over = self._ended.is_set()
                for answer in self._take():
                    if answer.number not in done and answer.number >= number:
                        done[answer.number] = answer
                        news.finished()
                        if answer.num_parts:
                            advance(answer.num_parts)
                if number not in done:
                    if is_over:
                        raise self._error or self._lost(number)
                    news.look(self._answers is not None, self._num_under_way)
                    self._ended.wait(_SECONDS_BETWEEN_LOOKS)
            answer = done.pop(number)
            value = pickle.loads(answer.data)
            if answer.failed:
                raise value
            yield value
        self._is_over = True

    def close(self) -> None:
        """Cancel what is still to do, and end what was started; tasks under way are killed within seconds."""
        if self._is_over:
            self._thread.join()
            return
        self._is_given_up = True
        self._is_called.set()
        self._thread.join(_SECONDS_TO_END)
        if self._thread.is_alive() and self._active is None:
            end_java()
            self._thread.join(_SECONDS_TO_END)

    def _lost(self, number: int) -> ChildProcessError:
        # Spark only logs that an accumulator could not be updated, and takes the task for done
        return ChildProcessError(
            f"Spark finished, but the result of item {number + 1} of {len(self._items)} did not arrive; "
            "run this command again"
        )

    def _take(self) -> list[_Answer]:
        if self._answers is None:
            return []
        answers = self._answers.value[self._num_taken :]
        self._num_taken += len(answers)
        return answers

    def _run(self) -> None:
        """The life of the thread that calls Spark."""
        context: SparkContext | None = None
        watch: threading.Thread | None = None
        try:
            context = self._active
            if context is None:
                start_java()
                if self._is_given_up:
                    return
                context = start_context(self._master, self._num_workers)
            tag = f"limla-{secrets.token_hex(8)}"
            watch = threading.Thread(
                target=self._watch, args=(context, tag), name="limla-spark-watch", daemon=True
            )
            watch.start()
            self._submit(context, tag)
        except (Py4JError, PySparkException, OSError, EOFError) as error:
            self._error = self._stall or reason(context, error)
        except Exception as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._error = error
        finally:
            self._ended.set()
            self._is_called.set()
            if watch is not None:
                watch.join()
            if context is not None and self._active is None:
                stop_context(context)

    def _submit(self, context: SparkContext, tag: str) -> None:
        """Run the job to its end."""
        answers = context.accumulator(list[_Answer](), _Gathered())
        cores_per_item = context.defaultParallelism // len(self._items)
        task = _Task(self._work, str(Path.cwd()), self._num_workers, cores_per_item, answers)
        rdd = context.parallelize(self._items, len(self._items))
        self._answers = answers
        context.addJobTag(tag)
        try:
            rdd.foreachPartition(task)
        finally:
            # with PYSPARK_PIN_THREAD=false the user's own jobs would carry it too
            with suppress(Py4JError, OSError):
                context.removeJobTag(tag)

    def _watch(self, context: SparkContext, tag: str) -> None:
        """See what is under way; cancel a job that was given up, or that no executor works on."""
        tracker = context.statusTracker()
        last_seen = time.monotonic()
        # a failing call is the job's own failure, and its thread tells why
        with suppress(Py4JError, OSError):
            while not self._ended.is_set():
                self._is_called.wait(_SECONDS_BETWEEN_LOOKS_AT_SPARK)
                if self._is_given_up or self._stall:
                    # again until it has ended: it may not have begun yet
                    context.cancelJobsWithTag(tag)
                    self._ended.wait(_SECONDS_BETWEEN_LOOKS_AT_SPARK)
                    continue
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
                self._num_under_way = sum(stage.numActiveTasks for stage in stages if stage is not None)
                if self._num_under_way:
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > SECONDS_WITHOUT_WORK:
                    self._stall = _stalled(context)


def _stalled(context: SparkContext) -> SettingsError:
    memory = context.getConf().get("spark.executor.memory", "1g")
    return SettingsError(
        f"{context.master}: no executor took any work for {SECONDS_WITHOUT_WORK:g} s: are workers there, with a free "
        f"core and {memory} of memory each? (the master's web page shows them)"
    )


class _News:
    """Tells the user what Spark does while the stage's own progress stands still."""

    def __init__(self, progress: Progress, num_items: int) -> None:
        self._progress = progress
        self._num_items = num_items
        self._num_done = 0
        self._is_started = False
        self._started = self._last = time.monotonic()

    def starting(self, master: str | None) -> None:
        """Spark is being started."""
        self._progress.say(f"starting Spark ({master}) …" if master else "starting Spark …")

    def finished(self) -> None:
        """One more item is done."""
        self._num_done += 1
        self._last = time.monotonic()

    def look(self, is_started: bool, num_under_way: int) -> None:
        """Called often; says something when Spark has started, and when nothing was finished for a while."""
        now = time.monotonic()
        if is_started and not self._is_started:
            self._is_started = True
            self._last = now
        elif now - self._last >= SECONDS_WITHOUT_NEWS:
            self._last = now
            where = f"{num_under_way} under way" if self._is_started else "Spark is not up yet"
            self._progress.say(
                f"{self._num_done} of {self._num_items} shards done, {where}, {now - self._started:.0f} s passed"
            )
