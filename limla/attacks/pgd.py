"""Projected gradient descent, through torchattacks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torchattacks
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

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {"alpha": self.alpha, "random_start": True, "steps": self.steps}

    def _compute(self, victim: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = torchattacks.PGD(victim, eps=self.eps, alpha=self.alpha, steps=self.steps, random_start=True)
        return attack(images, labels)
