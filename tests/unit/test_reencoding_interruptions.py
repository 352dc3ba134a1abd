"""Re-encoding in real processes: killed, interrupted, out of space, started twice."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limla.manifest import list_variants
from limla.reencoding import ReencodeSettings, reencode
from tests.unit.pets import hashes
from tests.unit.variants import make_source

QUALITIES = (5, 50, 95)
COUNTS = {"train": (40, 40, 40, 40), "val": (25,), "test": (25,)}


def command(data_dir: Path, *more: str) -> list[str]:
    """The command line of one run."""
    qualities = ",".join(map(str, QUALITIES))
    arguments = ["reencode", str(data_dir), "--quality", qualities, "--measure", "20", *more]
    return [sys.executable, "-m", "limla", *arguments]


def start(data_dir: Path, *more: str) -> subprocess.Popen[str]:
    """Start one run; its session is its own, as a terminal's is."""
    return subprocess.Popen(
        command(data_dir, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(data_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """One whole run."""
    return subprocess.run(command(data_dir, *more), capture_output=True, text=True, check=False)


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """A source large enough to be hit in the middle; read only."""
    data_dir = tmp_path_factory.mktemp("source") / "pets"
    make_source(data_dir, lambda height, width, seed: make_photo(4 * height, 4 * width, seed), COUNTS)
    return data_dir


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of an uninterrupted run."""
    data_dir = tmp_path_factory.mktemp("reference") / "pets"
    shutil.copytree(source, data_dir)
    reencode(data_dir, ReencodeSettings(qualities=QUALITIES, measure=20))
    return hashes(data_dir)


@pytest.fixture
def fresh(source: Path, tmp_path: Path) -> Path:
    """A copy of the source."""
    return Path(shutil.copytree(source, tmp_path / "pets"))


def orphans(mark: str) -> list[int]:
    """Worker processes that still run with `mark` in their environment."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                mark.encode() in (folder / "environ").read_bytes()
                and "Z (" not in (folder / "status").read_text()
            ):
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("workers", ["2", "9"])
def test_killed_at_random_points_it_ends_in_the_same_bytes(
    fresh: Path, reference: dict[str, str], workers: str
) -> None:
    generator = random.Random(int(workers))
    num_killed = 0
    for _ in range(5):
        process = start(fresh, "--workers", workers)
        # the start-up is not the interesting part: strike once the lock is taken
        wait_for(lambda process=process: (fresh / ".reencode.lock").exists() or process.poll() is not None)
        time.sleep(generator.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        num_killed += process.returncode == -signal.SIGKILL
    assert num_killed >= 1
    wait_for(lambda: run(fresh, "--workers", workers).returncode == 0, seconds=60)
    assert hashes(fresh) == reference


def test_workers_die_with_a_killed_parent(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"LIMLA_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv(*mark.split("=", 1))
    process = start(fresh, "--workers", "17")
    wait_for(lambda: len(orphans(mark)) >= 4)  # the parent and three workers
    process.kill()
    process.communicate()
    wait_for(lambda: not orphans(mark), seconds=5)


@pytest.mark.parametrize("workers", ["2", "9"])
def test_ctrl_c_is_prompt_and_clean(fresh: Path, reference: dict[str, str], workers: str) -> None:
    process = start(fresh, "--workers", workers)
    wait_for(lambda: list(fresh.glob("jpeg-*/*.limla-tmp")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    interrupted = time.monotonic()
    _, errors = process.communicate()
    assert time.monotonic() - interrupted < 3
    assert process.returncode == 130, errors
    assert "interrupted; what is complete was kept: run this command again to go on" in errors
    assert "Traceback" not in errors
    assert not list(fresh.rglob("*.limla-tmp"))
    assert not (fresh / ".reencode.lock").exists()
    assert run(fresh).returncode == 0
    assert hashes(fresh) == reference


def test_of_two_runs_started_together_one_is_refused(fresh: Path, reference: dict[str, str]) -> None:
    processes = [start(fresh), start(fresh)]
    ends = [(process.communicate(), process.returncode) for process in processes]
    codes = sorted(code for _, code in ends)
    assert codes in ([0, 2], [0, 0]), ends  # [0, 0] when one was over before the other began
    for (_, errors), code in ends:
        if code == 2:
            assert "limla reencode is under way in another process" in errors
            assert errors.count("Error:") == 1
    assert hashes(fresh) == reference


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """Mount a tmpfs of `num_bytes` at `folder`, where this is allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def check_out_of_space(result: subprocess.CompletedProcess[str], reason: str) -> None:
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert reason in last
    assert "run this command again to go on" in last
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_one_line_and_later_runs_go_on(
    source: Path, reference: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("mount") is None:
        pytest.skip("there is no 'mount' command here")
    used = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", 2 * used):
        data_dir = Path(shutil.copytree(source, tmp_path / "disk" / "pets"))
        filler = tmp_path / "disk" / "filler"
        filler.write_bytes(bytes(int(used * 0.8)))
        check_out_of_space(run(data_dir), "No space left on device")
        assert not list(data_dir.rglob("*.limla-tmp"))
        assert list_variants(data_dir) == ["source"]
        filler.unlink()
        subprocess.run(["mount", "-o", f"remount,size={20 * used}", str(tmp_path / "disk")], check=True)
        assert run(data_dir).returncode == 0
        assert hashes(data_dir) == reference


def test_a_file_size_limit_is_one_line_and_later_runs_go_on(fresh: Path, reference: dict[str, str]) -> None:
    largest = max(path.stat().st_size for path in fresh.rglob("*.tar"))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 8, resource.RLIM_INFINITY))

    result = subprocess.run(command(fresh), capture_output=True, text=True, preexec_fn=limit, check=False)
    check_out_of_space(result, "File too large")
    assert not list(fresh.rglob("*.limla-tmp"))
    assert run(fresh).returncode == 0
    assert hashes(fresh) == reference


def test_memory_stays_flat(source: Path, tmp_path: Path, make_photo: Callable[..., Any]) -> None:
    """Four times the images, the same peak: nothing is gathered."""

    def peak_mb(data_dir: Path) -> float:
        script = (
            "import re, sys; from pathlib import Path; from limla.reencoding import *; "
            "reencode(Path(sys.argv[1]), ReencodeSettings(qualities=(5, 50, 95), measure=20, workers=2)); "
            # not ru_maxrss, which begins with the memory of the process that started this one
            "print(int(re.search('VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(data_dir)], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    photos = [make_photo(300, 400, seed) for seed in range(8)]
    for name, num_shards in (("few", 2), ("many", 8)):
        make_source(tmp_path / name, lambda *size: photos[size[2] % 8], {"train": (60,) * num_shards})
    few, many = peak_mb(tmp_path / "few"), peak_mb(tmp_path / "many")
    assert many < 250
    assert many < few + 25
