"""Engines: an ordered map over shards. One file each, and one line in `limla.registry.ENGINES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limla.errors import SettingsError
from limla.progress import SILENT, Progress
from limla.registry import ENGINES

if TYPE_CHECKING:
    from limla.engines.base import Engine


def build_engine(
    name: str, workers: int | None = None, master: str | None = None, progress: Progress = SILENT
) -> Engine:
    """The engine of that name.

    Args:
        name: of the engine catalogue.
        workers: threads, as the engine counts them; None leaves it to the engine.
        master: address of a cluster, for the engines that take one.
        progress: is told what the engine does before and between its items, where that takes time.

    Raises `UnknownNameError`, `MissingDependencyError`, and `SettingsError` for a master where there is none.
    """
    plug = ENGINES.load(name)
    if getattr(plug, "takes_master", False):
        return plug(workers, master, progress)
    if master is not None:
        raise SettingsError(f"engine '{name}' takes no master ({master}): choose engine spark, or leave it out")
    return plug(workers)
