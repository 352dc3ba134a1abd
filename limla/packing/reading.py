"""Files → prepared pictures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from limla.errors import DataError
from limla.packing.planning import Photo
from limla.packing.settings import PackSettings
from limla.pictures.files import read_regular
from limla.pictures.policies import Picture, read_picture
from limla.pictures.walking import printable

UNREADABLE = "cannot be read: "
"""Begins the reason of a file that the operating system refused; another run may have better luck."""


@dataclass(frozen=True)
class Refused:
    """A file for the quarantine list: relative path and reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A picture, and its source file's size and SHA-256 (hexadecimal)."""

    picture: Picture
    source_num_bytes: int
    source_sha256: str


def prepare(source: Path, photo: Photo, settings: PackSettings) -> Prepared | Refused:
    """Read and check one file; a file that fails is refused with its reason, whatever is wrong with it.

    Raises `DataError` when it is not the file that was found: gone, or of another size.
    """
    try:
        # a Path would keep the name in a table of the interpreter's
        data = read_regular(f"{source}/{photo.path}")
    except DataError as error:
        return Refused(photo.path, str(error))
    except FileNotFoundError as error:
        if photo.num_bytes:
            raise _changed(source, photo, "now it is gone") from error
        return _unreadable(photo.path, error)
    except OSError as error:
        return _unreadable(photo.path, error)
    if len(data) != photo.num_bytes:
        raise _changed(source, photo, f"now it holds {len(data)}")
    try:
        picture = read_picture(data, settings.max_pixels, settings.profiles == "convert")
    except DataError as error:
        return Refused(photo.path, " ".join(str(error).split()))
    return Prepared(picture, len(data), hashlib.sha256(data).hexdigest())


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused(path, f"{UNREADABLE}{(error.strerror or type(error).__name__).lower()}")


def _changed(source: Path, photo: Photo, how: str) -> DataError:
    return DataError(
        f"{source / printable(photo.path)}: {photo.num_bytes} bytes when the photos were listed, {how}; pack again "
        "when nothing writes there (on a cluster, every machine must see the same folder)"
    )
