"""Uniform noise: a control that knows nothing of the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import Attack


class UniformNoise(Attack):
    """Every value moves by a number drawn uniformly from -eps to eps: a point of the ball without a search."""

    name: ClassVar[str] = "uniform-noise"
    norm = "linf"
    knowledge: ClassVar[str] = "none"
    uses_seed: ClassVar[bool] = True
    num_gradients = 0

    def __init__(self, eps: float) -> None:
        super().__init__(eps)

    def _start(self, images: Tensor) -> Tensor:
        return images + torch.empty_like(images).uniform_(-self.eps, self.eps)

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        return start
