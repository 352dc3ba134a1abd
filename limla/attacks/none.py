"""No attack: the clean pass that every attack success rate is measured against."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from limla.attacks.base import Attack


class NoAttack(Attack):
    """The images as they are."""

    name: ClassVar[str] = "none"
    norm = ""
    knowledge: ClassVar[str] = "none"
    num_gradients = 0

    def __init__(self) -> None:
        super().__init__(eps=0.0)

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        raise AssertionError("eps is 0, so the base returns the images")
