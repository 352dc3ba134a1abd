"""Reading picture files of strangers: what is no regular file is not waited for, Pillow's warnings are silenced."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from limla.errors import DataError

MAX_FILE_BYTES = 1 << 30
"""Larger files are not read: no picture within the pixel limit needs that much."""


def read_regular(path: Path | str) -> bytes:
    """The bytes of a regular file; `DataError` for a pipe, socket or device, which could block for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor, checked after opening)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{status.st_size} bytes: more than {MAX_FILE_BYTES} are not read")
        return file.read(status.st_size)


_silenced = ExitStack()
_num_silencing = 0
_lock = threading.Lock()


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Pillow's warnings about odd files are silenced: what matters is refused.

    The filters belong to the whole process, and two shards may be under way in it: the last one to end restores them.
    """
    global _num_silencing
    with _lock:
        _num_silencing += 1
        if _num_silencing == 1:
            _silenced.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
    try:
        yield
    finally:
        with _lock:
            _num_silencing -= 1
            if _num_silencing == 0:
                _silenced.close()
