"""Evaluation: checkpoints × test qualities × attacks → PredictionRows."""

from limla.evaluation.settings import EvaluateSettings, UserModel, check_parameters_used
from limla.evaluation.stage import CellResult, EvaluateResult, evaluate

__all__ = [
    "CellResult",
    "EvaluateResult",
    "EvaluateSettings",
    "UserModel",
    "check_parameters_used",
    "evaluate",
]
