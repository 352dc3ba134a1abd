"""Hot loops over pixels: functions of pointers and whole numbers, compiled by numba once per machine.

Importing numba, which its own cache needs too, takes a process much longer and more memory than most kernels' work
is worth. So the machine code that its compiler makes of a kernel is kept in the user's cache folder, and a process
that finds it there only needs llvmlite to place it in memory. Where it cannot be kept, each process compiles again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from limla.errors import SettingsError

_DIGEST_BYTES = 32
_lock = threading.Lock()


class Kernel:
    """A function compiled when it is first called; it runs without the GIL. See `kernel`.

    Args:
        function: returns nothing, and cannot raise.
        arguments: the type of each parameter: "int64", or "uint8*" and the like for a pointer.
    """

    def __init__(self, function: Callable[..., None], arguments: tuple[str, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self._native: Callable[..., Any] | None = None
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: int) -> None:
        """Call it with numbers and addresses (`array.ctypes.data`); the caller keeps the arrays alive.

        The first call compiles; `SettingsError` when numba is told not to.
        """
        native = self._native or self._load()
        native(*arguments)

    def _load(self) -> Callable[..., Any]:
        kinds = [ctypes.c_void_p if name.endswith("*") else ctypes.c_int64 for name in self.arguments]
        with _lock:
            # another thread's: a second engine in the place of the first would free code that is running
            if self._native is not None:
                return self._native
            path = self._cache_path()
            kept = None if path is None else _read(path)
            if kept is None:
                kept = self._compile()
                if path is not None:
                    _write(path, kept)
            name, _, code = kept.partition(b"\n")
            self._engine = _place(code)  # it owns the code
            address = self._engine.get_function_address(name.decode())
            assert address, name
            native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)(address)
            # numba's convention: where to put the result and an error, of which there are none, then the arguments
            self._result = ctypes.c_int64()
            nowhere = ctypes.addressof(self._result)
            self._native = functools.partial(native, nowhere, nowhere)
            return self._native

    def _compile(self) -> bytes:
        """The function's name in the machine code, a line feed, and the machine code (an object file)."""
        import llvmlite.binding as llvm
        import numba

        if vars(numba)["config"].DISABLE_JIT:
            raise SettingsError("numba is told not to compile, and limla needs it to: unset NUMBA_DISABLE_JIT")
        listed = ", ".join(re.sub(r"(\w+)\*", r"CPointer(\1)", name) for name in self.arguments)
        options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        (text,) = numba.njit(f"void({listed})", **options)(self.function).inspect_llvm().values()
        called = re.findall(r"^declare [^\n@]*@([^\n(]*)", text, re.MULTILINE)
        assert all(name.startswith("llvm.") for name in called), (
            f"{self.function} raises or allocates: {called}"
        )
        (name,) = re.findall(r"^define [^\n@]*@([^\n(]*)\(", text, re.MULTILINE)
        return f"{name}\n".encode() + _machine().emit_object(llvm.parse_assembly(text))

    def _cache_path(self) -> Path | None:
        """Named by all that decides the code: the modules' text, the libraries, and the processor's abilities.

        None for a user without a home, and a module without its text.
        """
        import llvmlite.binding as llvm

        try:
            folder = kernel_folder()
            texts = [
                Path(name).read_text(encoding="utf-8")
                for name in (self.function.__code__.co_filename, __file__)
            ]
        except (OSError, RuntimeError):
            return None
        parts = (
            *texts,
            *self.arguments,
            *(importlib.metadata.version(name) for name in ("numba", "llvmlite")),
            llvm.get_default_triple(),
            llvm.get_host_cpu_name(),
            llvm.get_host_cpu_features().flatten(),
        )
        mark = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        return folder / f"{self.function.__name__.strip('_')}-{mark}.o"


def kernel(*arguments: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: `@kernel("uint8*", "int64")` above a function of a pointer and a number.

    Inside: plain loops; pointers are indexed by one number, nothing is allocated or raised, and nothing of other
    modules is called: when this module's text changes, and only then, the kernel is compiled again. Indices that
    are `np.uint64` make the best code.
    """
    return lambda function: Kernel(function, arguments)


def kernel_folder() -> Path:
    """Where compiled kernels are kept: `limla/kernels` in the user's cache folder (XDG_CACHE_HOME).

    Raises `RuntimeError` for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "limla" / "kernels"


def _machine() -> Any:
    """This processor, to LLVM."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        jit=True,
    )


def _place(code: bytes) -> Any:
    """LLVM's engine with the object file in it, ready to run."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _read(path: Path) -> bytes | None:
    """What is kept at `path` behind its SHA-256; None where there is nothing, not all of it, or another's.

    Machine code is run as it is, so it must be this user's own, in a folder that nobody else may write to.
    """
    try:
        with path.open("rb") as file:
            if not all(_is_ours_alone(status) for status in (os.fstat(file.fileno()), path.parent.stat())):
                return None
            kept = file.read()
    except OSError:
        return None
    mark, data = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    return data if mark == hashlib.sha256(data).digest() else None


def _is_ours_alone(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _write(path: Path, data: bytes) -> None:
    """Keep it, whole or not at all; where that cannot be (no home, a full disk) the next process compiles."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
