"""The Spark engine's corners, without Java: answers that do not arrive, tags, an end that is waited for, one log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark import SparkContext

from limla.engines import spark, spark_context


def test_a_result_that_does_not_arrive_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark only logs it where an accumulator could not be updated."""
    monkeypatch.setattr(spark, "check_java", lambda: None)
    monkeypatch.setattr(spark._Job, "_run", lambda job: job._ended.set())
    with pytest.raises(
        ChildProcessError, match=r"the result of item 1 of 2 did not arrive; run this command again"
    ):
        list(spark.SparkEngine().map(abs, [1, 2]))  # type: ignore[arg-type]


class Context:
    """A Spark context whose jobs fail."""

    defaultParallelism = 1  # noqa: N815 (Spark's name)

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.tags_of_job: set[str] = set()

    def accumulator(self, value: list[Any], param: object) -> SimpleNamespace:
        return SimpleNamespace(value=value)

    def parallelize(self, items: Iterable[Any], number: int) -> Context:
        return self

    def addJobTag(self, tag: str) -> None:  # noqa: N802 (Spark's name)
        self.tags.add(tag)

    def removeJobTag(self, tag: str) -> None:  # noqa: N802 (Spark's name)
        self.tags.remove(tag)

    def foreachPartition(self, task: Callable[..., None]) -> None:  # noqa: N802 (Spark's name)
        self.tags_of_job = set(self.tags)
        raise ConnectionError("lost")


def test_a_users_context_keeps_no_tag_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context()
    monkeypatch.setattr(spark._Job, "_run", lambda job: None)
    with pytest.raises(ConnectionError):
        spark._Job(None, None, abs, [1])._submit(context, "ours")  # type: ignore[arg-type]
    assert (context.tags_of_job, context.tags) == ({"ours"}, set())


@pytest.mark.parametrize(("trap", "ended_by"), [("", signal.SIGTERM), ("trap '' TERM;", signal.SIGKILL)])
def test_java_is_gone_when_it_was_ended(
    trap: str, ended_by: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"{trap} echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(spark_context, "_SECONDS_TO_END_JAVA", 0.2)
    monkeypatch.setattr(SparkContext, "_gateway", SimpleNamespace(proc=process))
    monkeypatch.setattr(SparkContext, "_active_spark_context", object())
    spark_context.end_java()
    assert process.returncode == -ended_by, "it was waited for"
    assert SparkContext._active_spark_context is None, "the next map does not take it for the user's"
    process.communicate()


def test_lines_of_py4j_are_written_once_however_often_java_starts(tmp_path: Path) -> None:
    script = (
        "import logging; from limla.engines.spark_context import _log_quietly\n"
        "_log_quietly(); _log_quietly(); logging.getLogger('py4j').error('lost')"
    )
    log = tmp_path / "spark.log"
    environment = os.environ | {spark_context.LOG_VARIABLE: str(log)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert log.read_text() == "lost\n"
    assert done.stderr == b""
