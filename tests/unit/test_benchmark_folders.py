"""An ended or killed benchmark leaves no folder behind, and removes nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from limla.benchmarking.folders import temporary_folder


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_ended_benchmark_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        sys.executable,
        "-m",
        "limla",
        "bench",
        "--stage",
        "reencode",
        "--images",
        "64",
        "--rounds",
        "50",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, process_group=0, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("limla-bench-*/photos/jpeg-q90")):  # a contender is at work
        assert process.poll() is None
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in error
    if number == signal.SIGKILL:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        while list(tmp_path.iterdir()):
            assert time.monotonic() < end + 20, "the contender goes on, or the next benchmark leaves its folder"
            time.sleep(0.5)
            with temporary_folder():
                pass
    assert not list(tmp_path.iterdir())


def test_only_what_a_killed_benchmark_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "import os, signal, sys, tempfile; from limla.benchmarking.folders import temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'photos').mkdir(); print(folder, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(process.stdout.readline().strip()) for process in started if process.stdout]
    killed, running = started
    killed.kill()
    killed.communicate()
    (tmp_path / "limla-bench-without-a-mark" / "photos").mkdir(parents=True)
    of_this_process = tmp_path / "limla-bench-unlocked"
    of_this_process.mkdir()
    (of_this_process / ".in-use").write_text(f"limla bench, process {os.getpid()}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".in-use").write_text(f"limla bench, process {killed.pid}\n")
    (tmp_path / "limla-bench-link").symlink_to(elsewhere)
    try:
        with temporary_folder() as mine:
            assert mine.is_dir()
            left = {path for path in tmp_path.iterdir() if path not in (mine, elsewhere)}
            names = ("limla-bench-without-a-mark", "limla-bench-unlocked", "limla-bench-link")
            assert left == {folders[1], *(tmp_path / name for name in names)}
            assert (elsewhere / ".in-use").exists()
    finally:
        running.communicate("")
    assert running.returncode == 0
    assert not mine.exists()
    assert not folders[1].exists()
