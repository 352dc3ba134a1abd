"""The line's first two stages on a small Spark cluster: two executor processes, one of which may die."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import SettingsError
from limla.packing import PackSettings, pack
from limla.progress import Progress
from limla.reencoding import ReencodeSettings, reencode
from tests.conftest import natural_like

CLUSTER = "local-cluster[2,1,1024]"
"""Spark's own: a master, two workers and their executors in processes of their own, one core and 1 GiB each."""
PACKING = ("--shard-images", "5")
CODING = ("--quality", "10,50", "--measure", "all")

needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="Spark needs Java: apt install default-jre-headless"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 photos of two classes, one of them no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(36):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(natural_like(180, 240, seed=number)).save(path, quality=92)
    (folder / "cat" / "10.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def expected(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the local engine makes of them."""
    data_dir = tmp_path_factory.mktemp("local") / "pets"
    pack(photos, data_dir, PackSettings(max_shard_samples=5, workers=2))
    reencode(data_dir, ReencodeSettings(qualities=(10, 50), measure="all", workers=2))
    return data_dir


@pytest.fixture(scope="module")
def spark_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pyspark package, with a folder of its own for what the workers of a local cluster leave behind."""
    import pyspark

    folder = tmp_path_factory.mktemp("spark-home")
    for path in Path(pyspark.__file__).parent.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def run(spark_home: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line in an empty folder; what still runs at the end is ended."""
    begun: list[subprocess.Popen[str]] = []
    folder = tmp_path / "cwd"
    folder.mkdir()

    def start(*words: object, **environment: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from limla.cli import main; main()", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "SPARK_HOME": str(spark_home), "OMP_NUM_THREADS": "1"}
            | {name: str(value) for name, value in environment.items()},
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert not list(folder.iterdir()), "something is left in the working folder"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    for word in ("Traceback", "\tat ", "WARN", "ERROR", "Exception"):
        assert word not in out + error
    return out, error


def family(process: subprocess.Popen[str]) -> dict[int, str]:
    """The processes that `process` and its children started: number → command line."""
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parents[int(folder.name)] = int(status[1])
        except (OSError, IndexError):
            continue
    found = {process.pid}
    while more := {number for number, parent in parents.items() if parent in found} - found:
        found |= more
    return {number: lines[number] for number in found if number in lines}


def executors(process: subprocess.Popen[str]) -> list[int]:
    return sorted(
        number for number, line in family(process).items() if "CoarseGrainedExecutorBackend --driver" in line
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@needs_java
@pytest.mark.slow
def test_two_executors_pack_what_one_process_packs(
    photos: Path, expected: Path, tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    data_dir = tmp_path / "pets"
    out, error = ended(run("pack", photos, data_dir, *PACKING, "--engine", "spark", "--master", CLUSTER))
    assert "35 images of 2 classes" in out
    assert error.startswith(f"starting Spark ({CLUSTER}) …\n")
    assert "packing: 36/36 images" in error
    assert files(data_dir / "source") == files(expected / "source")


@needs_java
@pytest.mark.slow
def test_the_work_of_a_killed_executor_is_done_again(
    expected: Path, tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    data_dir = tmp_path / "pets"
    shutil.copytree(expected / "source", data_dir / "source")
    # a relative path means the same to the executors as to the driver
    relative = os.path.relpath(data_dir, tmp_path / "cwd")
    process = run("reencode", relative, *CODING, "--engine", "spark", "--master", CLUSTER)
    wait_for(lambda: len(list(data_dir.glob("jpeg-q50/*.tar.*.limla-tmp"))) == 2, process)
    first, _ = executors(process)
    os.kill(first, signal.SIGKILL)
    num_done = len(list(data_dir.glob("jpeg-q50/*.part.json")))
    assert num_done < 7, "the executor was killed while there was work"
    out, error = ended(process)
    assert out.count("made") == 2
    assert "35/35 images" in error
    assert files(data_dir) == files(expected)


@needs_java
@pytest.mark.slow
def test_a_damaged_shard_is_one_line(
    expected: Path, tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    data_dir = tmp_path / "pets"
    shutil.copytree(expected / "source", data_dir / "source")
    path = data_dir / "source" / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    process = run("reencode", data_dir, *CODING, "--engine", "spark", "--master", "local[2]")
    out, error = ended(process, code=2)
    assert out == ""
    (line,) = [line for line in error.splitlines() if line.startswith("Error")]
    assert "train-000001.tar: altered since it was made" in line
    assert not list(data_dir.rglob("*.limla-tmp"))


def interrupted(process: subprocess.Popen[str]) -> None:
    """Ctrl-C as a terminal gives it, to every process; one line, quickly, and nothing goes on."""
    others = set(family(process)) - {process.pid}
    assert others
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, error = ended(process, code=130)
    assert time.monotonic() - begun < 15
    start, *progress, last = error.splitlines()
    assert start == "starting Spark (local[2]) …"
    assert all(line.startswith("re-encoding at quality 10, 50: ") for line in progress), progress
    assert last == "Error: interrupted; what is complete was kept: run this command again to go on"
    end = time.monotonic() + 10
    while alive := [number for number in others if Path(f"/proc/{number}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.05)


@needs_java
@pytest.mark.slow
def test_ctrl_c_is_one_line_and_ends_it_quickly(
    expected: Path, tmp_path: Path, run: Callable[..., subprocess.Popen[str]]
) -> None:
    data_dir = tmp_path / "pets"
    shutil.copytree(expected / "source", data_dir / "source")
    words = ("reencode", data_dir, *CODING, "--engine", "spark", "--master", "local[2]")
    while_it_starts = run(*words)
    wait_for(lambda: "/bin/java" in " ".join(family(while_it_starts).values()), while_it_starts)
    interrupted(while_it_starts)
    assert not list(data_dir.rglob("*.part.json"))
    while_it_works = run(*words)
    wait_for(lambda: list(data_dir.glob("jpeg-q50/*.tar.*.limla-tmp")), while_it_works)
    interrupted(while_it_works)
    assert not list(data_dir.rglob("*.limla-tmp"))
    reencode(data_dir, ReencodeSettings(qualities=(10, 50), measure="all"))
    assert files(data_dir) == files(expected)


@needs_java
@pytest.mark.slow
def test_a_killed_java_is_one_error_and_the_next_map_starts_another(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pyspark import SparkContext\n"
        "from limla.engines.spark import SparkEngine; from tests.contracts.test_engines import Squares\n"
        "engine = SparkEngine(master='local[1]')\n"
        "results = engine.map(Squares(seconds=0.01), [2, 900, 900])\n"
        "print(next(results)); os.kill(SparkContext._gateway.proc.pid, signal.SIGKILL)\n"
        "try:\n"
        "    list(results)\n"
        "except ChildProcessError as error:\n"
        "    print(error)\n"
        "print(list(engine.map(Squares(), [3])))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": root},
    )  # fmt: skip
    first, error, last = done.stdout.splitlines()
    assert first == "(2, 1)"
    assert "the Java process that runs Spark here has ended" in error
    assert last == "[(3, 5)]"
    assert done.stderr == ""


@needs_java
def test_what_is_no_master_is_one_line_before_anything_starts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("limla.engines.spark_context.launch_gateway", pytest.fail)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, but nobody listens
        for master, message in (
            (f"spark://127.0.0.1:{port}", "does not answer (127.0.0.1"),
            ("spark://127.0.0.1", "write it as spark://host:7077"),
            ("yarn", "in HADOOP_CONF_DIR"),
            ("sprak://127.0.0.1", "'sprak://127.0.0.1' is no master URL of Spark's: choose local, local[4]"),
        ):
            words = ("pack", photos, tmp_path / "out", "--engine", "spark", "--master", master)
            done = CliRunner().invoke(limla, [*map(str, words)])
            assert done.exit_code == 2
            assert message in done.stderr
            assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "master",
    ["", "foo", "local[abc]", "local[0]", "local[2,0]", "local[]", "local-cluster[2]", "local-cluster[2,1,0]",
     "spark:/x", "spark://", "spark://a:7077/", "Yarn", "k8s://", " local"],
)  # fmt: skip
def test_what_is_no_master_url(master: str) -> None:
    from limla.engines.spark_context import check_master

    with pytest.raises(SettingsError, match=r"is no master URL of Spark's: choose local, .*spark://host:7077"):
        check_master(master)


@pytest.mark.parametrize(
    "master",
    [None, "local", "local[4]", "local[*]", "local[*,3]", "local[ 2 , 3 ]", "local-cluster[2, 1, 1024]", "yarn",
     "k8s://https://10.0.0.1:6443"],
)  # fmt: skip
def test_what_is_a_master_url(master: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from limla.engines.spark_context import check_master

    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")
    check_master(master)


class Said(Progress):
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_the_user_is_told_what_spark_does_while_nothing_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    from limla.engines import spark

    now = 100.0
    monkeypatch.setattr(spark.time, "monotonic", lambda: now)
    said = Said()
    news = spark._News(said, 8)
    news.starting("local[2]")
    for second, is_started in ((1, False), (16, False), (17, True), (31, True), (33, True), (34, True)):
        now = 100.0 + second
        news.look(is_started, 2)
    news.finished()
    now = 140.0
    news.look(True, 2)
    now = 150.0
    news.look(True, 1)
    assert said.lines == [
        "starting Spark (local[2]) …",
        "0 of 8 shards done, Spark is not up yet, 16 s passed",
        "0 of 8 shards done, 2 under way, 33 s passed",
        "1 of 8 shards done, 1 under way, 50 s passed",
    ]


def test_java_and_pyspark_are_asked_for(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["pack", str(photos), str(tmp_path / "out"), "--engine", "spark"]
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(limla, words)
    assert done.exit_code == 2
    assert "needs Java, and there is none on the PATH: install Java 17 or newer: apt install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"none in JAVA_HOME ({tmp_path})" in CliRunner().invoke(limla, words).stderr
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.delitem(sys.modules, "limla.engines.spark", raising=False)
    done = CliRunner().invoke(limla, words)
    assert done.exit_code == 2
    assert "engine 'spark' needs the package 'pyspark'" in done.stderr
    assert "pip install 'limla[spark]'" in done.stderr
    words[-1] = "sprak"
    assert "unknown engine 'sprak'; known: local, spark." in CliRunner().invoke(limla, words).stderr
    done = CliRunner().invoke(limla, [*words[:-1], "local", "--master", "local[2]"])
    assert "engine 'local' takes no master" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Could not parse Master URL: 'x'\n\tat org.apache.spark.SparkContext",
            "Could not parse Master URL: 'x'",
        ),
        (
            "Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent failure: Lost task "
            "0.3 in stage 0.0 (TID 7) (10.0.0.2 executor 1): java.io.IOException: no disk\n\tat java.base/x\n\n"
            "Driver stacktrace:",
            "java.io.IOException: no disk (on 10.0.0.2 executor 1)",
        ),
        (
            "Lost task 0.0 in stage 0.0 (TID 0) (b executor 0): PythonException: Traceback (most recent call last):\n"
            "  File \"x.py\", line 1\nModuleNotFoundError: No module named 'limla'\n SQLSTATE: 38000\n\n\tat x",
            "ModuleNotFoundError: No module named 'limla' (on b executor 0)",
        ),
    ],
)
def test_the_reason_is_found_among_the_traces(text: str, expected: str) -> None:
    from limla.engines.spark_context import one_line

    assert one_line(RuntimeError(text)) == expected
