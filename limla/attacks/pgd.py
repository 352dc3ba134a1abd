"""Projected gradient descent: torchattacks' PGD, computed here so that a batch can be cut into parts.

torchattacks draws the random start inside and in one call, so it cannot take a part of a batch. The contract suite
holds this loop to torchattacks' results.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import Attack
from limla.errors import SettingsError


class Pgd(Attack):
    """Signed gradient steps, each projected back onto the ball, from a uniformly random start inside it.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    Args:
        eps: radius of the ball on the [0, 1] scale.
        steps: gradient steps, at least 1.
        alpha: length of one step on the [0, 1] scale, in (0, 1]. To cross the ball, steps · alpha should
            exceed eps.
    """

    name: ClassVar[str] = "pgd"
    norm: ClassVar[str] = "linf"
    uses_seed: ClassVar[bool] = True

    def __init__(self, eps: float, steps: int = 10, alpha: float = 2 / 255) -> None:
        super().__init__(eps)
        if steps < 1:
            raise SettingsError(f"{steps} steps of attack 'pgd' are out of range: choose at least 1")
        if not (math.isfinite(alpha) and 0 < alpha <= 1):
            raise SettingsError(
                f"alpha {alpha:g} of attack 'pgd' is out of range: it is the length of a step on the [0, 1] "
                "scale, so choose above 0 to 1, for example 2/255"
            )
        self.steps = int(steps)
        self.alpha = float(alpha)
        self.num_gradients = self.steps

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {"alpha": self.alpha, "random_start": True, "steps": self.steps}

    def _start(self, images: Tensor) -> Tensor:
        # the numbers that torchattacks draws for the same seed
        noise = torch.empty_like(images).uniform_(-self.eps, self.eps)
        return noise.add_(images).clamp_(0, 1)

    def _compute(self, victim: nn.Module, images: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        lowest, highest = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        adversarial = start
        for _ in range(self.steps):
            adversarial = adversarial.detach().requires_grad_(True)
            # the sum, not the mean: an image's gradient does not depend on how many others there are
            loss = nn.functional.cross_entropy(victim(adversarial), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            step = torch.add(adversarial.detach(), gradient.sign_(), alpha=self.alpha)
            adversarial = step.clamp_(lowest, highest)
        return adversarial
