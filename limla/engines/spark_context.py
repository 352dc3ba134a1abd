"""Spark's contexts for `limla.engines.spark`: how one is started and ended, and what its errors mean to a user."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyspark
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.java_gateway import launch_gateway

from limla.errors import MissingDependencyError, SettingsError

LOG_VARIABLE = "LIMLA_SPARK_LOG"
"""Environment variable: the file that Spark's own log is appended to; without it the log is thrown away."""
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_END_JAVA = 5.0
"""So long Java may end in order, before it is killed."""
_LOST_TASK = re.compile(r"Lost task \S+ in stage \S+ \(TID \d+\) \((?P<where>[^)]*)\): ")
_NUMBER = r"\s*0*[1-9]\d*\s*"
_FORMS = (
    "local",
    rf"local\[({_NUMBER}|\*)\]",
    rf"local\[({_NUMBER}|\*),{_NUMBER}\]",
    rf"local-cluster\[{_NUMBER},{_NUMBER},{_NUMBER}\]",
    r"spark://[^/,\s][^/\s]*",
    "yarn",
    r"k8s://\S+",
)
_FORMS_SHOWN = (
    "local, local[4] or local[*] (threads), local[4,2] (and tries of a task), local-cluster[2,1,1024] (workers, cores, "
    "MiB), spark://host:7077 (several: spark://a:7077,b:7077), yarn, or k8s://https://host:443"
)
_INSTALL_JAVA = "install Java 17 or newer: apt install default-jre-headless (Debian, Ubuntu), or set JAVA_HOME"


def start_context(master: str | None = None, num_task_cpus: int | None = None) -> SparkContext:
    """A quiet Spark context of ours: nothing of Spark's log on the screen, nothing left in the working folder.

    Raises `SettingsError` for a master that cannot be had, `MissingDependencyError` for Java that is too old.
    """
    start_java()
    gateway = SparkContext._gateway
    assert gateway is not None
    conf = SparkConf(_jvm=gateway.jvm)
    if master:
        conf.setMaster(master)
    conf.setIfMissing("spark.app.name", "limla")
    conf.setIfMissing("spark.python.task.killTimeout", "200ms")
    conf.set("spark.ui.showConsoleProgress", "false")
    if num_task_cpus:
        conf.set("spark.task.cpus", str(num_task_cpus))
    chosen = conf.get("spark.master") or "local[*]"
    if chosen.startswith("local"):
        # the executors are on this machine: they import what the driver imports, and nobody else need reach them; the
        # folder of the script comes last, as all of these come before Python's own
        path = dict.fromkeys(filter(None, [*sys.path[1:], sys.path[0]]))
        conf.set("spark.executorEnv.PYTHONPATH", os.pathsep.join(path))
        conf.setIfMissing("spark.ui.enabled", "false")
        conf.setIfMissing("spark.driver.host", "127.0.0.1")
        conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    handler = signal.getsignal(signal.SIGINT)
    try:
        context = SparkContext(conf=conf, gateway=gateway)
        # a connection that breaks is told as the job's failure, not by its trace
        context._accumulatorServer.handle_error = lambda *_: None  # type: ignore[method-assign]
        return context
    except (PySparkException, Py4JError) as error:
        raise SettingsError(f"Spark's master '{chosen}' cannot be had: {one_line(error)}") from error
    finally:
        # Spark's own handler of Ctrl-C stays for good and fails once the context has ended
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def start_java() -> None:
    """Start Java for the contexts to come, unless it runs; all that it says goes to the log.

    It ends when this process does. Raises `MissingDependencyError` where it does not start.
    """
    if SparkContext._gateway is not None and not _has_ended(SparkContext._gateway):
        return
    with _open_log() as log:
        start = log.seek(0, os.SEEK_END)
        try:
            gateway = launch_gateway(popen_kwargs={"stdout": log, "stderr": log})
        except (PySparkException, Py4JError, OSError) as error:
            raise MissingDependencyError(
                f"Spark does not start ({_cause(log, start, error)}); {_INSTALL_JAVA}"
            ) from error
    _log_quietly()
    # where pyspark keeps its own
    SparkContext._gateway, SparkContext._jvm = gateway, gateway.jvm


def _has_ended(gateway: Any) -> bool:
    """Whether Java was started by this process, and is gone."""
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    return process is not None and process.poll() is not None


def end_java() -> None:
    """Tell Java to end in order, with what it still does, and see it end; calls into it that are under way fail."""
    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    # the next map would take it for the user's own
    SparkContext._active_spark_context = None
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    if process is None:
        return
    process.terminate()
    try:
        process.wait(_SECONDS_TO_END_JAVA)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@functools.cache  # once per process, however often Java starts: another handler would write each line again
def _log_quietly() -> None:
    """What py4j logs, it raises too: traces go to the log of Spark, if there is one, and not to the screen."""
    name = os.environ.get(LOG_VARIABLE)
    handler = logging.FileHandler(name) if name else logging.NullHandler()
    logger = logging.getLogger("py4j")
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger().addFilter(_NotOfPy4j(handler))
    warnings.filterwarnings("ignore", "Unable to cleanly shutdown Spark JVM process", RuntimeWarning)
    # limla gives Spark no pandas frames
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)


class _NotOfPy4j(logging.Filter):
    """Sends another way what py4j gives to the root logger itself."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is anybody else's."""
        if Path(record.pathname).parent.name != "py4j":
            return True
        self._handler.handle(record)
        return False


def stop_context(context: SparkContext) -> None:
    """End a context of ours; nothing is wrong when it, or Java, has ended by itself."""
    try:
        with suppress(Py4JError, OSError):
            context.stop()
    finally:
        # pyspark leaves a context in its place that it cannot reach to stop
        if SparkContext._active_spark_context is context:
            SparkContext._active_spark_context = None


def _open_log() -> IO[bytes]:
    name = os.environ.get(LOG_VARIABLE)
    return Path(name).open("ab+") if name else tempfile.TemporaryFile()


def _cause(log: IO[bytes], start: int, error: Exception) -> str:
    """What Java said first when it did not start; the log begins at `start`."""
    log.seek(start)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
    told = [line for line in lines if line and not line.startswith(("at ", "WARNING", "Using Spark's"))]
    return " ".join(told[:2]) or one_line(error)


def check_java() -> None:
    """Raise `MissingDependencyError` where Spark would find no Java."""
    home = os.environ.get("JAVA_HOME")
    java = Path(home) / "bin" / "java" if home else shutil.which("java")
    if java is None or not Path(java).is_file():
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        raise MissingDependencyError(f"engine 'spark' needs Java, and there is none {where}: {_INSTALL_JAVA}")


def check_master(master: str | None) -> None:
    """Raise `SettingsError` at once for what is no master URL, or where nothing answers at a standalone master's.

    Spark itself would start first, and then try for a minute; for YARN without an address for a quarter of an hour.
    """
    if master is None:
        return
    if not any(re.fullmatch(form, master) for form in _FORMS):
        raise SettingsError(f"master '{master}' is no master URL of Spark's: choose {_FORMS_SHOWN}")
    if master == "yarn" and not {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & os.environ.keys():
        raise SettingsError("master 'yarn': name the folder of the cluster's configuration in HADOOP_CONF_DIR")
    if not master.startswith("spark://"):
        return
    reasons: list[str] = []
    for address in master.removeprefix("spark://").split(","):
        match = re.fullmatch(r"\[?(?P<host>[^\]/]+)\]?:(?P<port>\d{1,5})", address)
        if match is None:
            raise SettingsError(
                f"master '{master}': write it as spark://host:7077, as the master's web page shows it"
            )
        try:
            socket.create_connection((match["host"], int(match["port"])), _SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            reasons.append(f"{address}: {getattr(error, 'strerror', None) or error}".lower())
        else:
            return
    raise SettingsError(
        f"master '{master}' does not answer ({'; '.join(reasons)}); start it, or correct the address (docs/cluster.md)"
    )


def reason(context: SparkContext | None, error: Exception) -> Exception:
    """What to raise for an error of Spark's; without a context, of its start."""
    text = one_line(error)
    if isinstance(error, Py4JNetworkError | ConnectionError):
        return ChildProcessError(
            f"the Java process that runs Spark here has ended, perhaps killed for want of memory ({text})"
        )
    if context is None:
        return error
    master = context.master
    if re.search(r"stopped SparkContext|SparkContext (was|has been) shut ?down", text):
        return SettingsError(
            f"{master} does not take this run, or ended it: is a Spark master of version {pyspark.__version__} there? "
            "(its log and web page say more)"
        )
    if "No module named" in text:
        return MissingDependencyError(
            f"the executors' Python ({context.pythonExec}) cannot import what the work needs ({text}): "
            "install limla there too, or name its Python in PYSPARK_PYTHON (docs/cluster.md)"
        )
    if "PYTHON_VERSION_MISMATCH" in text or "Cannot run program" in text:
        return SettingsError(
            f"{master}: {text}; name the Python of all machines in PYSPARK_PYTHON (docs/cluster.md)"
        )
    return ChildProcessError(f"Spark gave up: {text}")


def one_line(error: Exception) -> str:
    """The reason in an error of Spark's, without the traces of two languages."""
    java = error.java_exception.getMessage() if isinstance(error, Py4JJavaError) else None
    text, where = str(java or error), ""
    if lost := _LOST_TASK.search(text):
        text, where = text[lost.end() :], f" (on {lost['where']})"
    head = re.split(r"\n\s*at |\n\nDriver stacktrace", text, maxsplit=1)[0]
    lines = [line.strip() for line in head.splitlines() if line.strip() and "SQLSTATE:" not in line]
    if not lines:
        return f"{type(error).__name__}{where}"
    # of an error in Python code on an executor, what Python says in the end
    in_python = any(line.endswith("Traceback (most recent call last):") for line in lines)
    return (lines[-1] if in_python else lines[0]) + where
