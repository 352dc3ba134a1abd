"""Evaluation: checkpoints × test qualities × attacks → PredictionRows."""

from limla.evaluation.conditions import planned_conditions
from limla.evaluation.settings import EvaluateSettings, UserModel, check_parameters_used
from limla.evaluation.stage import TIMINGS, CellResult, EvaluateResult, evaluate

__all__ = [
    "TIMINGS",
    "CellResult",
    "EvaluateResult",
    "EvaluateSettings",
    "UserModel",
    "check_parameters_used",
    "evaluate",
    "planned_conditions",
]
