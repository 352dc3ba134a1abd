"""Compute a batch as small parts, one thread and one copy of the model for each core.

A part's activations stay in the caches, and a thread that never waits for another at every layer loses less
to a busy machine. How a batch is cut depends on its shape alone, never on the number of threads.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PART_BYTES = 8 * 3 * 224 * 224 * 4
"""Most bytes of float32 images in one part: eight of 3 × 224 × 224, hundreds of small ones."""

Work = Callable[..., Tensor]
"""(model, part of each tensor, …) → a tensor with a row for every image of the part."""


class _StoppedError(Exception):
    """Ends a part because another has failed or the user has pressed Ctrl-C."""


class BatchParts:
    """Runs work on the parts of a batch, on as many threads as torch may use.

    Every thread works on its own copy of the model, because a stranger's forward may keep state in attributes.
    The copies share the parameters; buffers are copied from the model's at the start of every part.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: list[nn.Module] = []

    def run(self, work: Work, *tensors: Tensor) -> Tensor:
        """`work` on parts of `tensors` (images first; cut along the first axis), its results put together.

        With more than one part, `work` runs in other threads, in the caller's grad mode. Raises what the first
        failing part raises, in the order of the batch; the others stop at their next forward pass, on Ctrl-C too.
        """
        num_parts = count_parts(tensors[0])
        if num_parts == 1:
            return work(self._model, *tensors)
        parts = list(zip(*(tensor.tensor_split(num_parts) for tensor in tensors), strict=True))
        num_threads = torch.get_num_threads()
        num_workers = min(num_threads, num_parts)
        free = self._free_copies(num_workers)
        stop = threading.Event()
        with_gradients = torch.is_grad_enabled()

        def compute(part: tuple[Tensor, ...]) -> Tensor:
            model = free.get()
            try:
                _copy_buffers(self._model, model)
                with torch.set_grad_enabled(with_gradients):
                    return work(_Stoppable(model, stop), *part)
            finally:
                free.put(model)

        with _threads_of_each(num_threads // num_workers) as set_threads:
            executor = ThreadPoolExecutor(num_workers, "limla-part", initializer=set_threads)
            try:
                futures = [executor.submit(compute, part) for part in parts]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # nothing is left to stop when all went well
                stop.set()
                executor.shutdown(wait=True, cancel_futures=True)
        return torch.cat(_results(futures))

    def _free_copies(self, number: int) -> queue.SimpleQueue[nn.Module]:
        while len(self._copies) < number:
            self._copies.append(copy_sharing_parameters(self._model))
        free: queue.SimpleQueue[nn.Module] = queue.SimpleQueue()
        for model in self._copies[:number]:
            free.put(model)
        return free


class _Stoppable(nn.Module):
    """A model whose forward passes end once `stop` is set."""

    def __init__(self, model: nn.Module, stop: threading.Event) -> None:
        super().__init__()
        self._model = model
        self._stop = stop

    def forward(self, images: Tensor) -> Any:
        if self._stop.is_set():
            raise _StoppedError
        return self._model(images)


def count_parts(images: Tensor) -> int:
    """Into how many parts a batch is cut; 1 on a GPU, which wants large batches."""
    if not images.is_cpu or len(images) < 2:
        return 1
    num_bytes = images.numel() * images.element_size()
    return min(len(images), -(-num_bytes // PART_BYTES))


def copy_sharing_parameters(model: nn.Module) -> nn.Module:
    """A deep copy that holds the very same parameter tensors."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared)


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    for theirs, ours in zip(source.modules(), target.modules(), strict=True):
        for name, buffer in theirs._buffers.items():
            ours._buffers[name] = None if buffer is None else buffer.clone()


@contextmanager
def _threads_of_each(number: int) -> Iterator[Callable[[], None]]:
    """Threads that call what this yields use `number` threads inside each operation."""
    # OpenMP counts per calling thread, MKL per process: so set here too, and put back
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield lambda: torch.set_num_threads(number)
    finally:
        torch.set_num_threads(before)


def _results(futures: list[Future[Tensor]]) -> list[Tensor]:
    """All results in order, or the first part's error that is one of its own."""
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]
