"""Linear algebra on one thread while a codec computes: its bytes then do not depend on the number of threads.

A matrix product shared among threads is summed in another order, and so differs in the last bits. And codecs are
called from many threads at once, one for each image, which pools inside BLAS would only slow down.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import threadpoolctl

_lock = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's BLAS at one thread, in the whole process, while anyone is inside.

    The first to come in sets it, the last to leave puts back what was before; threads may come and go at any time.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _limit = _controller().limit(limits=1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limit.restore_original_limits()
                _limit = None


@functools.cache
def _controller() -> Any:
    """Of the BLAS libraries that are loaded, numpy's among them; looking for them takes a millisecond or so."""
    assert np.__version__  # loaded, and its BLAS with it
    return threadpoolctl.ThreadpoolController().select(user_api="blas")
