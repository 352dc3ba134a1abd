"""Files → prepared pictures: many threads, in order, a bounded number ahead."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from limla.errors import DataError
from limla.packing.pictures import MAX_FILE_BYTES, Picture, read_picture
from limla.packing.settings import PackSettings
from limla.packing.splitting import Planned


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


def prepare(source: Path, path: str, settings: PackSettings) -> Prepared | Refused:
    """Read and check one file; a file that fails is refused with its reason, whatever is wrong with it."""
    try:
        data = read_regular(source / path)
        picture = read_picture(data, settings.max_pixels, settings.profiles == "convert")
    except DataError as error:
        return Refused(path, " ".join(str(error).split()))
    except OSError as error:
        return Refused(path, f"cannot be read: {(error.strerror or type(error).__name__).lower()}")
    return Prepared(picture, len(data), hashlib.sha256(data).hexdigest())


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; `DataError` for a pipe, socket or device, which could block for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor, checked after opening)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{status.st_size} bytes: more than {MAX_FILE_BYTES} are not read")
        return file.read(status.st_size)


def prepare_all(
    source: Path, planned: Sequence[Planned], settings: PackSettings, num_threads: int
) -> Generator[Prepared | Refused, None, None]:
    """`prepare` for each file, in order; at most 2 · threads + 2 are under way, so memory stays flat.

    Decoders release the GIL. Pillow's warnings about odd files are silenced meanwhile: what matters is refused.
    """
    window: deque[Future[Prepared | Refused]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="limla-pack")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for one in planned:
                if len(window) >= 2 * num_threads + 2:
                    yield window.popleft().result()
                window.append(pool.submit(prepare, source, one.file.path, settings))
            while window:
                yield window.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
