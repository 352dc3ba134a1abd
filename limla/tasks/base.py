"""The task socket: what a batch of model outputs says about a batch of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Judgement:
    """One batch, judged; every tensor is detached and on the outputs' device.

    Attributes:
        predictions: (N,) int64.
        correct: (N,) bool.
        losses: (N,) float32, in the task's own unit (classification: cross-entropy in nats).
        confidences: (N,) float32 in [0, 1].
    """

    predictions: Tensor
    correct: Tensor
    losses: Tensor
    confidences: Tensor


class Task(Protocol):
    """What training minimises and evaluation records."""

    name: ClassVar[str]

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(N,) float32 per-sample losses, differentiable; their mean is what training minimises."""
        ...

    def judge(self, outputs: Tensor, labels: Tensor) -> Judgement:
        """Predictions, correctness, losses and confidences of one batch, without gradients."""
        ...
