"""The machine, the libraries and their versions, and which codecs are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import PIL.features

from limla.codecs import build_codec
from limla.codecs.base import Learned
from limla.doctor.findings import Finding
from limla.errors import MissingDependencyError
from limla.manifest import library_versions
from limla.registry import CODECS

_DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
_OTHERS = (
    "numpy",
    "scipy",
    "statsmodels",
    "pyarrow",
    "numba",
    "kornia",
    "torchattacks",
    "bjontegaard",
    "plotly",
    "webdataset",
)


def machine_findings(folder: Path) -> Iterator[Finding]:
    """A line each: limla and Python, the system, torch, DALI, the JPEG libraries, all others, cores and disk."""
    versions = library_versions(_OTHERS)
    yield Finding("limla", f"{versions['limla'] or 'not installed'}, Python {platform.python_version()}")
    yield Finding("system", platform.platform())
    yield _torch()
    dali = next(filter(None, map(_of, _DALI)), "")
    yield Finding("DALI", dali or f"not installed: pip install {_DALI[0]}")
    yield Finding("simplejpeg", _with_turbo(_of("simplejpeg"), _turbo_in("simplejpeg._jpeg")))
    yield Finding("Pillow", _with_turbo(_of("pillow"), PIL.features.version("libjpeg_turbo") or ""))
    yield Finding("libraries", ", ".join(f"{name} {versions[name] or 'not installed'}" for name in _OTHERS))
    yield Finding("cores", f"{len(os.sched_getaffinity(0))} for this process")
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding("disk", f"{free:.1f} GiB free in {folder}")


def codec_findings() -> Iterator[Finding]:
    """A line for each codec of the catalogue: the library that encodes, or what to install."""
    for name in CODECS.names():
        try:
            if issubclass(CODECS.load(name), Learned):
                yield Finding(f"codec {name}", "available, with weights of your own: limla codec train")
                continue
            yield Finding(f"codec {name}", f"available ({build_codec(name).version()})")
        except MissingDependencyError as error:
            yield Finding(f"codec {name}", f"not available: {error}")


def _torch() -> Finding:
    import torch

    parts = [str(torch.__version__), f"torchvision {_of('torchvision') or 'not installed'}"]
    parts.append(f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        parts += names
    else:
        parts.append("no GPU")
    return Finding("torch", ", ".join(parts))


def _of(distribution: str) -> str:
    """The version of an installed distribution; "" for one that is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _with_turbo(version: str, turbo: str) -> str:
    if not version:
        return "not installed"
    return f"{version}, " + (f"libjpeg-turbo {turbo}" if turbo else "libjpeg of unknown version")


def _turbo_in(module: str) -> str:
    """The version that libjpeg-turbo wrote into a compiled module; "" where there is none to be read."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    found = re.search(rb"libjpeg-turbo version (\d+(?:\.\d+)+)", Path(spec.origin).read_bytes())
    return found[1].decode() if found else ""
