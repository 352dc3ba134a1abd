"""Single-label image classification."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from limla.tasks.base import Judgement


class Classification:
    """Logits → class, cross-entropy, softmax probability."""

    name: ClassVar[str] = "classification"

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats of (N, C) logits against (N,) int64 labels → (N,) float32, differentiable.

        Computed in float32 whatever the logits' dtype: half precision loses the loss of a sure prediction.
        """
        return functional.cross_entropy(outputs.float(), labels, reduction="none")

    @torch.no_grad()
    def judge(self, outputs: Tensor, labels: Tensor) -> Judgement:
        """(N, C) logits and (N,) int64 labels → the most probable class of each, its probability, the loss."""
        logits = outputs.detach().float()
        confidences, predictions = functional.softmax(logits, dim=1).max(dim=1)
        return Judgement(predictions, predictions == labels, self.losses(logits, labels), confidences)
