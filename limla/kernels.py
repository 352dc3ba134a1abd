"""Hot loops over pixels, compiled by numba when they are first called.

numba is imported by that call and not before: `limla --help` and stages without a kernel do without its 0.3 s.
The machine code is kept where numba keeps it (`__pycache__` beside the module or the user's cache folder), so
compiling costs about a second once per machine; where nothing can be kept, each process compiles again.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

_Arguments = ParamSpec("_Arguments")
# what numba lets through when its cache folder is full, not writable, or holds a file that a power cut left empty
_CACHE_TROUBLE = (OSError, EOFError, pickle.UnpicklingError)


class Kernel(Generic[_Arguments]):
    """A function of arrays and numbers that returns nothing, compiled at its first call; see `kernel`."""

    def __init__(self, function: Callable[_Arguments, None]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        try:
            self._cached(*arguments, **named)
        except _CACHE_TROUBLE:  # arithmetic on arrays raises none of these itself
            self._uncached(*arguments, **named)

    @functools.cached_property
    def _cached(self) -> Callable[..., None]:
        try:
            return self._compiler(cache=True)(self.function)
        except RuntimeError:  # numba finds no folder it may write to
            return self._uncached

    @functools.cached_property
    def _uncached(self) -> Callable[..., None]:
        return self._compiler(cache=False)(self.function)

    @staticmethod
    def _compiler(cache: bool) -> Any:
        import numba

        return numba.njit(nogil=True, error_model="numpy", cache=cache)


def kernel(function: Callable[_Arguments, None]) -> Kernel[_Arguments]:
    """Compile `function` with numba at its first call; it runs without the GIL and must be called thread by thread
    on arrays of its own.

    Plain Python inside: no other kernel, no objects. Indices should be `np.uint64`: numba then leaves out the
    check for negative ones, and loops become vector instructions.
    """
    return Kernel(function)
