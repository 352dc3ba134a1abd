"""The machine, the versions and the date that every benchmark's JSON records."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from limla.manifest import cpu_model

if TYPE_CHECKING:
    import torch

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


_GPU_LIBRARIES = (
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu13",
    "nvidia-nvjpeg",
    "triton",
)


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, system, Python, the versions of what is installed, today's date."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(),
        "num_cores": usable_cores(),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(_LIBRARIES),
        "date": datetime.date.today().isoformat(),
    }


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """Name, memory in GiB, driver, and the versions of what drives it; {} for a CPU."""
    if device.type != "cuda":
        return {}
    import torch

    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": _versions(_GPU_LIBRARIES),
    }


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    return {name: version for name in distributions if (version := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
