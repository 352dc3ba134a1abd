"""Starting torchrun in tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def words_for(data_dir: Path, checkpoint: Path, results_dir: Path, *more: object) -> list[str]:
    words = ("--checkpoint", checkpoint, "--data-dir", data_dir, "--output-dir", results_dir)
    return [*map(str, (*words, "--device", "cpu", "--attack", "fgsm,pgd", *more))]


def torchrun(processes: int, *words: str, seconds: int = 120) -> subprocess.CompletedProcess[str]:
    command = [*LAUNCH, str(processes), "-m", "limla", *words]
    return subprocess.run(
        command, env=ENVIRONMENT, timeout=seconds, capture_output=True, text=True, check=False
    )


def errors_in(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("Error")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as torchrun gives each process."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@dataclass
class Launched:
    """A torchrun at work."""

    process: subprocess.Popen[str]

    def pid_of(self, rank: int) -> int:
        """The process id of a rank."""
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"PPid:\t{self.process.pid}\n" not in (path / "status").read_text():
                    continue
                if f"\0RANK={rank}\0".encode() in b"\0" + (path / "environ").read_bytes():
                    return int(path.name)
        raise AssertionError(f"no process of rank {rank}")


@contextmanager
def launched(processes: int, words: Sequence[str], until: Path, *options: str) -> Iterator[Launched]:
    """Start torchrun and wait until something matches the pattern `until`; it must end within the block."""
    command = [*LAUNCH, str(processes), *options, "-m", "limla", *words]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 90
            while not list(until.parent.glob(until.name)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield Launched(process)
            assert process.poll() is not None
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
