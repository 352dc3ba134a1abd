"""Engines: an ordered map over shards. One file each, and one line in `limla.registry.ENGINES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limla.errors import SettingsError
from limla.registry import ENGINES

if TYPE_CHECKING:
    from limla.engines.base import Engine


def build_engine(name: str, workers: int | None = None, master: str | None = None) -> Engine:
    """The engine of that name.

    Args:
        name: of the engine catalogue.
        workers: threads, as the engine counts them; None leaves it to the engine.
        master: address of a cluster, for the engines that take one.

    Raises `UnknownNameError`, `MissingDependencyError`, and `SettingsError` for a master where there is none.
    """
    plug = ENGINES.load(name)
    if master is None:
        return plug(workers)
    if not getattr(plug, "takes_master", False):
        raise SettingsError(f"engine '{name}' takes no master ({master}): choose engine spark, or leave it out")
    return plug(workers, master)
