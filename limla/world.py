"""The processes that work together (torchrun), or the one that works alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from limla.errors import ProcessLostError, SettingsError
from limla.models.device import choose_device

T = TypeVar("T")

# a process that ends takes its connections with it, which the others notice at once; this is for one that hangs
_TIMEOUT = timedelta(minutes=30)
# of `World.wait`: until then one process may read every byte of a variant while the others have nothing to do
_WAIT_TIMEOUT = timedelta(days=7)
_waiting_group: ContextVar[Any] = ContextVar("group of World.wait", default=None)
_STORE_TIMEOUT = timedelta(seconds=5)
_SECONDS_FOR_THE_OTHERS = 3.0


@dataclass(frozen=True)
class World:
    """This process among those that work together.

    Attributes:
        rank, world_size: number of this process, and how many there are.
        device: of this process.
        local_rank: number of this process on its machine.
    """

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The first process's value, a picklable object without GPU tensors, in every process."""
        if self.world_size == 1:
            return value
        values: list[Any] = [value if self.is_first else None]
        with _others_alive():
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value (as for `broadcast`) by rank in the first process; [] in the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_first else None
        with _others_alive():
            torch.distributed.gather_object(value, values, dst=0)
        return values or []

    def wait(self) -> None:
        """Go on when every process has come here, however long one of them has work before that."""
        if self.world_size > 1:
            with _others_alive():
                torch.distributed.all_reduce(torch.zeros(1), group=_waiting_group.get())

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes, in place."""
        if self.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers: batch norm statistics differ by the data each has seen."""
        if self.world_size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def wrap(self, model: nn.Module, may_leave_unused: bool) -> nn.Module:
        """The model as training calls it: gradients averaged over the processes.

        `may_leave_unused` allows that some steps use only some of the parameters, which takes a walk through each
        step's graph.
        """
        if self.world_size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=may_leave_unused)


def torchrun_world(device: str) -> World:
    """This process's place, from the environment that torchrun sets; joins nothing yet."""
    try:
        rank, world_size, local_rank = (
            int(os.environ.get(name) or default)
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise SettingsError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them: {error}"
        ) from error
    return World(rank, world_size, choose_device(device, local_rank), local_rank)


@contextmanager
def joined(world: World, tensors: bool = True) -> Iterator[None]:
    """Be part of the process group for the block (nothing for a process alone).

    Args:
        tensors: whether `sum`, `share_buffers` and `wrap` are used, with tensors on `world.device`; `broadcast`
            and `gather` always go over the CPU.

    Raises `ProcessLostError` when the connection to another process breaks during the block.
    """
    if world.world_size == 1 or torch.distributed.is_initialized():
        yield
        return
    on_gpu = tensors and world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(world.device)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    with _others_alive():
        if _torchrun_keeps_a_store():
            torch.distributed.init_process_group(
                backend,
                timeout=_TIMEOUT,
                store=_torchruns_store(_TIMEOUT),
                rank=world.rank,
                world_size=world.world_size,
            )
        else:
            torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
        group = torch.distributed.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
    token = _waiting_group.set(group)
    try:
        with _others_alive():
            yield
    finally:
        _waiting_group.reset(token)
        torch.distributed.destroy_process_group()


# what gloo, NCCL and the store say when the other side is gone; they raise plain RuntimeErrors
_LOST = ("gloo", "Connection closed", "NCCL", "TCPStore")


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        by_torch = isinstance(error, torch.distributed.DistError)
        if by_torch or any(word in str(error) for word in _LOST):
            raise ProcessLostError(
                "another process of this run has ended or cannot be reached: see its own message, and start all of "
                "them again"
            ) from error
        raise


def tells_the_user(lost_another: bool) -> bool:
    """Whether this process, which ends because of an error, is the one whose error the user sees.

    The first of the run to ask is. The processes that torchrun starts ask the store that torchrun keeps for
    them; without one each process tells its own.

    Args:
        lost_another: the error is that another process has ended, which has most likely said more.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1") or not _torchrun_keeps_a_store():
        return True
    if lost_another:
        time.sleep(_SECONDS_FOR_THE_OTHERS)
    try:
        return _torchruns_store(_STORE_TIMEOUT).add("failed", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True


def _torchruns_store(timeout: timedelta) -> Any:
    """The store that torchrun keeps for its processes, under names of this attempt alone.

    torchrun's --max-restarts keeps one store for all attempts, with the addresses of processes that are gone.
    """
    run, attempt = (os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    make, prefixed = (vars(torch.distributed)[name] for name in ("TCPStore", "PrefixStore"))
    store = make(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timeout)
    return prefixed(f"limla/{run}/{attempt}", store)


def _torchrun_keeps_a_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
