"""What a folder of results was made with: photos and settings, the machine, the versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limla.comparison.photos import DrawnPhoto
from limla.comparison.settings import CompareSettings
from limla.errors import DataError, SettingsError
from limla.files import content_id, write_json
from limla.manifest import check_settings, cpu_model, library_versions
from limla.pictures.walking import printable
from limla.storage import TEMPORARY_SUFFIX, listing, read_bytes

NAME, LOCK = "comparison.json", ".compare.lock"
FORMAT = "limla-comparison-2"
_LIBRARIES = ("numpy", "scipy", "scikit-image", "pillow", "simplejpeg", "numba")
"""They decode the photos, and measure; what makes a codec's bytes is in the codec's own version."""


def check_own(folder: Path) -> None:
    """Raise `SettingsError` for a folder that holds anything but a comparison: nothing of others is overwritten."""
    there = listing(folder)
    if NAME in there:
        if read_object(folder / NAME).get("format") != FORMAT:
            raise SettingsError(
                f"{folder}: its {NAME} is not of this version of limla codecs compare; choose another output folder"
            )
        return
    foreign = sorted(name for name in there if name != LOCK and not name.endswith(TEMPORARY_SUFFIX))
    if foreign:
        raise SettingsError(
            f"{folder} is not empty ({printable(foreign[0])} …) and not made by limla codecs compare: "
            "choose another output folder"
        )


def agree(folder: Path, settings: CompareSettings, photos: Sequence[DrawnPhoto]) -> None:
    """Write the record, or check the one that is there.

    Raises `SettingsError` for other photos or settings, and for another machine or other versions: what was timed on
    two machines is no one table.
    """
    wanted = {
        "num_images": settings.num_images,
        "seed": settings.seed,
        "num_points": settings.num_points,
        "rates_bpp": settings.rates_bpp and list(settings.rates_bpp),
        "photos": content_id([(drawn.photo.name, drawn.sha256) for drawn in photos]),
    }
    path, here = folder / NAME, made_with()
    if not path.exists():
        write_json(path, {"format": FORMAT, "settings": wanted, "made_with": here})
        return
    record = read_object(path)
    check_settings(folder, _inner(path, record, "settings"), wanted)
    before = _inner(path, record, "made_with")
    different = [
        f"{name}: {before.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted(before.keys() | here.keys())
        if before.get(name) != here.get(name)
    ]
    if different:
        raise SettingsError(
            f"{folder} was begun on another machine or with other versions ({'; '.join(different)}), and their numbers "
            "are not mixed; choose another output folder, or go on with those"
        )


def made_with() -> dict[str, Any]:
    """The CPU, its logical cores, Python, and the versions of limla and of what measures."""
    return {
        "cpu": cpu_model(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        **library_versions(_LIBRARIES),
    }


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; raises `DataError` for anything else."""
    try:
        found = json.loads(read_bytes(path))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise DataError(
            f"{path}: damaged ({error}); choose another output folder, or remove this one"
        ) from error
    return found


def _inner(path: Path, record: dict[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    if not isinstance(found, dict):
        raise DataError(f"{path}: damaged (no '{name}'); choose another output folder, or remove this one")
    return found
