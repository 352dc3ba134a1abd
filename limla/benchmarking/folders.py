"""The temporary folder of a benchmark: it goes when the benchmark ends, however that happens.

Ctrl-C, SIGTERM and SIGHUP remove it at once. What a killed process left is removed by the next benchmark, which knows
it by the mark inside: that says whose the folder is, and a running benchmark holds a lock on it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from limla.files import is_at

_PREFIX = "limla-bench-"
_MARK = ".in-use"
_MARK_TEXT = re.compile(rb"limla bench, process (\d+)\n")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this process; those of processes that were killed are removed first."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or another benchmark is removing it
            _remove_if_stale(folder)
    with _ended_in_order(), tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as name:
        folder = Path(name)
        with (folder / _MARK).open("wb") as mark:
            # the lock first: a mark without its text is nobody's to judge
            fcntl.flock(mark, fcntl.LOCK_EX)
            mark.write(b"limla bench, process %d\n" % os.getpid())
            mark.flush()
            yield folder


def _remove_if_stale(folder: Path) -> None:
    """Remove a folder of ours whose process has ended; leave everything else as it is."""
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return
    descriptor = os.open(folder / _MARK, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = _MARK_TEXT.fullmatch(os.read(descriptor, 100))
        if text and not _runs(int(text[1])) and is_at(descriptor, folder / _MARK):
            _remove(folder)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """The mark last: what cannot be removed now, as something is still written there, is another time."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _MARK:
            path.unlink()
    (folder / _MARK).unlink()
    folder.rmdir()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as an exit does, which removes what is temporary."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    # a signal that somebody else handles, or that is ignored (nohup), is left alone
    changed = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]
    for one in changed:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in changed:
            signal.signal(one, signal.SIG_DFL)
