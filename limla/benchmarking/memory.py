"""How much memory a process and its children hold, from outside, without counting shared pages twice."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc")
_INTERVAL_S = 0.02
_REST_PER_WORK = 20
"""The sampler rests this many times as long as a sample took: it costs at most a twentieth of one core."""
_PRIVATE = ("Pss_Anon", "Pss_Shmem")


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in MB (10^6 bytes).

    Attributes:
        total_mb: proportional set size: resident pages, each shared page divided among those who share it; pages
            of memory-mapped files count while they are mapped in, though the kernel may drop them at any time.
        private_mb: the part of it that cannot be dropped: anonymous and shared memory.
    """

    total_mb: float
    private_mb: float


def tree_memory(pid: int) -> Memory | None:
    """The memory of process `pid` and all its descendants now; None where the kernel does not tell."""
    total = private = 0
    found = False
    for process in _tree(pid):
        try:
            lines = (_PROC / str(process) / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended
        sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
        if "Pss" not in sizes or "Pss_Anon" not in sizes:
            continue
        found = True
        total += sizes["Pss"]
        private += sum(sizes.get(name, 0) for name in _PRIVATE)
    return Memory(total * 1024 / 1e6, private * 1024 / 1e6) if found else None


def _tree(pid: int) -> list[int]:
    """`pid` and its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                # the command's name stands in brackets and may hold spaces
                after_name = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            children[int(after_name.split()[1])].append(int(entry.name))
    found = [pid]
    for process in found:
        found += children[process]
    return found


class MemorySampler:
    """Samples a process tree in a thread of its own while the block runs.

    Attributes:
        peak: the largest total and the largest private memory seen; None where the kernel does not tell.
    """

    def __init__(self, pid: int) -> None:
        self.peak: Memory | None = None
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="limla-memory", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            started = time.perf_counter()
            now = tree_memory(self._pid)
            if now is not None:
                before = self.peak or now
                self.peak = Memory(max(before.total_mb, now.total_mb), max(before.private_mb, now.private_mb))
            took = time.perf_counter() - started
            if self._stop.wait(max(_INTERVAL_S, _REST_PER_WORK * took)):
                return
