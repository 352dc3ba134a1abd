"""limla: Lossy Impact on Machine Learning Algorithms.

How far can images be compressed before a model suffers, and what does compression do to attacks on it?
The stages, each restartable and meeting only on disk:

    pack → reencode → train → evaluate → report          (`run` is all of it)

Names are imported when they are first used, so `import limla` loads neither torch nor DALI.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limla.errors import LimlaError
    from limla.evaluation import EvaluateSettings, evaluate
    from limla.loaders.base import LoaderSettings, open_loader
    from limla.models.checkpoint import load_checkpoint
    from limla.packing import PackSettings, pack
    from limla.plans import AttackPlan, DefencePlan
    from limla.reencoding import ReencodeSettings, reencode
    from limla.reporting import report
    from limla.running import run
    from limla.study import Study, read_study
    from limla.training import TrainSettings, train
    from limla.types import Batch, Preprocessing

_HOMES = {
    "AttackPlan": "limla.plans",
    "Batch": "limla.types",
    "DefencePlan": "limla.plans",
    "EvaluateSettings": "limla.evaluation",
    "LimlaError": "limla.errors",
    "LoaderSettings": "limla.loaders.base",
    "PackSettings": "limla.packing",
    "Preprocessing": "limla.types",
    "ReencodeSettings": "limla.reencoding",
    "Study": "limla.study",
    "TrainSettings": "limla.training",
    "evaluate": "limla.evaluation",
    "load_checkpoint": "limla.models.checkpoint",
    "open_loader": "limla.loaders.base",
    "pack": "limla.packing",
    "read_study": "limla.study",
    "reencode": "limla.reencoding",
    "report": "limla.reporting",
    "run": "limla.running",
    "train": "limla.training",
}
__all__ = [
    "AttackPlan",
    "Batch",
    "DefencePlan",
    "EvaluateSettings",
    "LimlaError",
    "LoaderSettings",
    "PackSettings",
    "Preprocessing",
    "ReencodeSettings",
    "Study",
    "TrainSettings",
    "evaluate",
    "load_checkpoint",
    "open_loader",
    "pack",
    "read_study",
    "reencode",
    "report",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'limla' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
