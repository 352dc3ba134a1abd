"""Kernels: compiled once, kept where that can be, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("what", ["a file", "read-only"])
def test_a_cache_folder_that_takes_nothing_is_no_failure(tmp_path: Path, what: str) -> None:
    if what == "a file":
        (tmp_path / "limla").write_bytes(b"")
    else:
        (tmp_path / "limla").mkdir(mode=0o500)  # root may write here all the same
    assert run(tmp_path) == "compiled"


def test_processes_that_start_at_once_all_succeed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert run(tmp_path) == "kept"
