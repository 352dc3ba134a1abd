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
    "numpy",
    "nvidia-dali-cuda120",
    "pillow",
    "simplejpeg",
    "torch",
    "torchattacks",
    "torchvision",
    "webdataset",
)


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, Python, the libraries' versions, and today's date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.processor(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "date": datetime.date.today().isoformat(),
    }
