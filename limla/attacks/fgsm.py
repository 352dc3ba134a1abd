"""The fast gradient sign method, through torchattacks."""

from __future__ import annotations

from typing import ClassVar

import torchattacks
from torch import Tensor, nn

from limla.attacks.base import Attack


class Fgsm(Attack):
    """One step of length eps along the sign of the loss gradient.

    Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
    """

    name: ClassVar[str] = "fgsm"
    norm = "linf"

    def __init__(self, eps: float) -> None:
        super().__init__(eps)

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        return torchattacks.FGSM(victim, eps=self.eps)(start, classes)
