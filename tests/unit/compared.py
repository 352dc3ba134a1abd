"""A comparison without processes, for the tests of what is compared."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from limla.benchmarking import Comparison, Contender
from limla.benchmarking.harness import ContenderRow, PassRow
from limla.benchmarking.passes import time_pass


def compared_here(
    contenders: Sequence[Contender],
    references: Any,
    rounds: int,
    check: Any = dict,
    progress: Any = None,
    title: str = "",
) -> Comparison:
    """`compare` without processes: one pass of each contender here; its speeds and memory mean nothing."""
    passes = {one.name: time_pass(_found(one.work), {**one.arguments, "check": True}) for one in contenders}
    rows = [
        PassRow(name, part, 1, times.num_images, times.seconds, 1.0, 1.0, 1.0, done.facts)
        for name, done in passes.items()
        for part, times in done.parts.items()
    ]
    shown = [
        ContenderRow(
            row.contender,
            row.part,
            "",
            row.num_images,
            speed,
            speed,
            speed,
            speed,
            1.0,
            1.0,
            row.num_images,
            None,
        )
        for row in rows
        for speed in [row.num_images / row.seconds]
    ]
    agreement = check({name: done.facts for name, done in passes.items()})
    return Comparison(tuple(shown), (), tuple(rows), {}, agreement)


def _found(work: str) -> Any:
    module, name = work.split(":")
    return getattr(importlib.import_module(module), name)
