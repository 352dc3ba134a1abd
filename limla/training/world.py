"""The processes that train together (torchrun), or the one that trains alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from limla.errors import SettingsError
from limla.models.device import choose_device


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank, world_size: number of this process, and how many there are.
        device: of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

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

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as training calls it: gradients averaged over the processes."""
        if self.world_size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # a user's model may leave parameters unused in some steps
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=True)


def torchrun_world(device: str) -> World:
    """This process's place, from the environment that torchrun sets; joins nothing yet."""
    try:
        rank, world_size, local_rank = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise SettingsError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them: {error}"
        ) from error
    return World(rank, world_size, choose_device(device, local_rank))


@contextmanager
def joined(world: World) -> Iterator[None]:
    """Be part of the process group for the block (nothing for a process alone)."""
    if world.world_size == 1 or torch.distributed.is_initialized():
        yield
        return
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    torch.distributed.init_process_group("nccl" if world.device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
