"""Gaussian noise: a control that knows nothing of the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import Attack


class GaussianNoise(Attack):
    """Every value moves by a normal number of standard deviation eps, brought into the ball as every attack is.

    In "linf" values beyond ±eps (about a third) are clipped to it, so the root mean square of the noise is about
    0.72 · eps, against 0.58 · eps of uniform noise and eps of FGSM. In "l2" the whole change is made eps long: a
    uniformly random direction.

    Args:
        eps: radius of the ball.
        norm: "linf" or "l2".
    """

    name: ClassVar[str] = "gaussian-noise"
    norm = "linf"
    knowledge: ClassVar[str] = "none"
    uses_seed: ClassVar[bool] = True
    num_gradients = 0

    def __init__(self, eps: float, norm: str = "linf") -> None:
        super().__init__(eps, norm)

    def _start(self, images: Tensor) -> Tensor:
        return images + self.eps * torch.randn_like(images)

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        return start
