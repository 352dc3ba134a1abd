"""The momentum iterative fast gradient sign method.

Computed here, not by torchattacks, which divides by zero where a gradient vanishes, as it does for images that a model
is very sure of. The contract suite holds this loop to torchattacks' results.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import Attack, loss_gradient
from limla.attacks.checks import check_count, check_not_negative, check_positive


class MiFgsm(Attack):
    """Steps along the sign of a running sum of gradients, each gradient divided by its mean size.

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018. Starts at the image itself.

    Args:
        eps: radius of the ball.
        steps: gradient steps, at least 1.
        alpha: length of one step on the [0, 1] scale, at most 1. None means eps / steps (as Dong et al.).
        decay: weight of the sum so far at each step, 0 or more; 0 forgets it.
    """

    name: ClassVar[str] = "mifgsm"
    norm = "linf"

    def __init__(self, eps: float, steps: int = 10, alpha: float | None = None, decay: float = 1.0) -> None:
        super().__init__(eps)
        self.steps = check_count(self.name, "steps", steps)
        if alpha is None:
            # with an eps of 0 nothing is computed
            alpha = (self.eps or 8 / 255) / self.steps
        what = "the length of a step on the [0, 1] scale (for example 2/255)"
        self.alpha = check_positive(self.name, "alpha", alpha, 1, what)
        self.decay = check_not_negative(self.name, "decay", decay)
        self.num_gradients = self.steps

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {"alpha": self.alpha, "decay": self.decay, "steps": self.steps}

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        lowest, highest = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        adversarial, momentum = start, torch.zeros_like(images)
        tiny = torch.finfo(images.dtype).tiny
        for _ in range(self.steps):
            gradient = loss_gradient(victim, adversarial, classes)
            gradient /= gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_(min=tiny)
            momentum = momentum.mul_(self.decay).add_(gradient)
            adversarial = torch.add(adversarial, momentum.sign(), alpha=self.alpha).clamp_(lowest, highest)
        return adversarial
