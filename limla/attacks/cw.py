"""Carlini and Wagner's L2 attack.

Computed here, not by torchattacks: that stops the whole batch by the sum of its costs, takes 0 for the logit of the
class it masks, and cannot move values that are exactly 0 or 1. The contract suite holds this loop to torchattacks'
results where none of that matters.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import Attack, per_image
from limla.attacks.checks import check_count, check_not_negative, check_positive

_INSIDE = 0.999999
"""Keeps atanh finite; the value in Carlini and Wagner's own code."""


class CarliniWagner(Attack):
    """The smallest change that makes the model err, found by Adam on length² + c · margin.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, equation 6 and section V.
    The attack has no ball of its own: its smallest change is brought into that of radius eps as every attack's is, so
    it succeeds where it finds a wrong answer within eps. Images that it finds none for stay as they are.

    Args:
        eps: radius of the ball, an L2 length.
        c: weight of the margin against the squared length, above 0; where the search for it begins.
        kappa: by how much the wrong class' logit must exceed the right one's, 0 or more.
        steps: of Adam, at least 1, in each search.
        lr: of Adam, above 0. A step moves every value by about lr / 2, so on large images a large one leaps over
            small balls: at 0.01, the value in the paper for 28 × 28 pixels, 0.8 in length for 96 × 96.
        searches: for c, image by image, at least 1: ten times as much as long as the image withstands, then halfway
            between the largest that failed and the smallest that did not.
    """

    name: ClassVar[str] = "cw"
    norm = "l2"

    def __init__(
        self,
        eps: float,
        c: float = 1.0,
        kappa: float = 0.0,
        steps: int = 50,
        lr: float = 0.002,
        searches: int = 1,
    ) -> None:
        super().__init__(eps)
        self.c = check_positive(self.name, "c", c)
        self.kappa = check_not_negative(self.name, "kappa", kappa)
        self.steps = check_count(self.name, "steps", steps)
        self.lr = check_positive(self.name, "lr", lr)
        self.searches = check_count(self.name, "searches", searches)
        self.num_gradients = self.steps * self.searches

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {
            "c": self.c,
            "kappa": self.kappa,
            "lr": self.lr,
            "searches": self.searches,
            "steps": self.steps,
        }

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        best = images.clone()
        shortest = images.new_full((len(images),), math.inf)
        weight = torch.full_like(shortest, self.c)
        lowest, highest = torch.zeros_like(weight), torch.full_like(weight, math.inf)
        for _ in range(self.searches):
            found, length = self._search(victim, images, classes, weight)
            shorter = length < shortest
            best = torch.where(per_image(shorter, images), found, best)
            shortest = torch.where(shorter, length, shortest)
            succeeded = torch.isfinite(length)
            highest = torch.where(succeeded, weight, highest)
            lowest = torch.where(succeeded, lowest, weight)
            weight = torch.where(torch.isfinite(highest), (lowest + highest) / 2, 10 * weight)
        return best

    def _search(
        self, victim: nn.Module, images: Tensor, classes: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The smallest change that fools the model with these (N,) weights, and its squared length.

        The length is infinite, and the image as it was, where there is none.
        """
        best = images.clone()
        shortest = torch.full_like(weight, math.inf)
        variable = torch.atanh((2 * images - 1) * _INSIDE).requires_grad_(True)
        optimizer = torch.optim.Adam([variable], lr=self.lr)
        for _ in range(self.steps):
            adversarial = (torch.tanh(variable) + 1) / 2
            length = (adversarial - images).square().flatten(1).sum(1)
            margin = _margin(victim(adversarial), classes)
            # every image has its own cost: in the sum, no gradient depends on another image
            cost = (length + weight * margin.clamp(min=-self.kappa)).sum()
            (variable.grad,) = torch.autograd.grad(cost, variable)
            optimizer.step()
            with torch.no_grad():
                fools = (margin < 0) & (margin <= -self.kappa) & (length < shortest)
                best = torch.where(per_image(fools, images), adversarial, best)
                shortest = torch.where(fools, length, shortest)
        return best, shortest


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    """(N,) right class' logit - the largest other one's: negative where the model errs."""
    right = logits.gather(1, classes[:, None])[:, 0]
    others = logits.scatter(1, classes[:, None], -math.inf)
    return right - others.amax(1)
