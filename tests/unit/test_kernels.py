"""Kernels: compiled once, kept where that can be, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from limla.codecs import ycbcr
from limla.kernels import Kernel

SCRIPT = """
import sys
import numpy as np
from limla.codecs.jpeg import JpegCodec
assert not {"numba", "llvmlite"} & set(sys.modules)
image = (np.arange(20 * 24 * 3) % 251).astype(np.uint8).reshape(20, 24, 3)
codec = JpegCodec()
assert codec.encode_each(image, [10, 60]) == [codec.encode(image, quality) for quality in (10, 60)]
print("compiled" if "numba" in sys.modules else "kept")
"""


def run(cache: Path) -> str:
    """What a fresh process does for its kernel."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_the_second_process_does_without_numba(tmp_path: Path) -> None:
    assert run(tmp_path) == "compiled"
    (kept,) = (tmp_path / "limla/kernels").iterdir()
    before = kept.read_bytes()
    assert run(tmp_path) == "kept"
    for damaged in (before[:-1], before[:100] + b"!" + before[101:]):  # as a power cut may leave it
        kept.write_bytes(damaged)
        assert run(tmp_path) == "compiled"
        # the machine code is the same again, and nothing else is left in the folder
        assert [path.read_bytes() for path in (tmp_path / "limla/kernels").iterdir()] == [before]


def test_a_cache_folder_that_takes_nothing_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "limla").write_bytes(b"")
    assert run(tmp_path) == "compiled"
    assert run(tmp_path) == "compiled"


@pytest.mark.parametrize("what", ["folder", "file"])
def test_machine_code_that_others_may_write_is_not_run(tmp_path: Path, what: str) -> None:
    assert run(tmp_path) == "compiled"
    (kept,) = (tmp_path / "limla/kernels").iterdir()
    open_to_all = kept.parent if what == "folder" else kept
    open_to_all.chmod(0o777)
    assert run(tmp_path) == "compiled"
    open_to_all.chmod(0o700)
    assert run(tmp_path) == "kept"


def test_threads_that_call_first_share_one_compiled_kernel() -> None:
    kernel = Kernel(ycbcr._fill.function, ycbcr._fill.arguments)
    placed: list[Any] = []
    together = threading.Barrier(8)

    def load() -> None:
        together.wait()
        placed.append(kernel._load())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(placed) == 8
    assert all(one is placed[0] for one in placed)


def test_numba_told_not_to_compile_is_a_line(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-c", SCRIPT]
    told = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert told.returncode != 0
    assert told.stderr.splitlines()[-1].endswith("unset NUMBA_DISABLE_JIT")


def test_processes_that_start_at_once_all_succeed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert run(tmp_path) == "kept"
