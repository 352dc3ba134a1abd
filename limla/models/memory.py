"""Keep freed activation memory inside the process instead of returning it to the kernel (Linux, glibc)."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass

# <malloc.h> of glibc
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_NEVER = -1
_TOP_PAD_BYTES = 64 << 20


@dataclass(frozen=True)
class MemoryPolicy:
    """What `keep_large_activations` did.

    Attributes:
        active: whether freed memory is kept.
        reason: why it is or is not, for logs and records.
    """

    active: bool
    reason: str


def keep_large_activations() -> MemoryPolicy:
    """Tell glibc's malloc to keep large freed blocks, for the rest of this process.

    Each activation of a convolutional network is a block of megabytes. By default glibc takes such a block
    from the kernel with `mmap` and gives it back when it is freed, so every layer of every step pays page
    faults and zeroed pages again: on the CPU about half the time of an attack. Here large blocks come from
    the heap (M_MMAP_MAX 0), whose top is not trimmed (M_TRIM_THRESHOLD) and grows in 64 MiB steps
    (M_TOP_PAD), so the next step reuses warm pages. Threads share that heap (M_ARENA_MAX 1): their own are of
    64 MiB at most and are trimmed.

    The cost: memory once used is not returned to the system before the process ends, and the heap can
    fragment. So the commands that train or attack call this, never an import. Results do not change.
    It does nothing, and says why, where libc is not glibc (musl, macOS, Windows); calling it again is harmless.
    """
    library, version = platform.libc_ver()
    if library != "glibc":
        return MemoryPolicy(False, f"the C library is {library or 'unknown'}, not glibc: left as it is")
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD_BYTES), (_M_ARENA_MAX, 1))
    accepted = [mallopt(option, value) == 1 for option, value in wanted]
    if not all(accepted):
        return MemoryPolicy(False, f"glibc {version} refused mallopt")
    return MemoryPolicy(True, f"glibc {version}: freed blocks stay in the process")
