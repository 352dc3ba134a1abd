"""The machine, the versions and the date that every benchmark's JSON records."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "limla",
    "numba",
    "numpy",
    "nvidia-dali-cuda120",
    "pillow",
    "simplejpeg",
    "spdl_io",
    "torch",
    "torchattacks",
    "torchvision",
    "webdataset",
)


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, system, Python, the versions of what is installed, today's date."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "num_cores": usable_cores(),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        "date": datetime.date.today().isoformat(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
