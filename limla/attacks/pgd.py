"""Projected gradient descent, computed here so that a batch can be cut into parts.

torchattacks draws the random start inside and in one call, so it cannot take a part of a batch. The contract suite
holds this loop to torchattacks' results.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from limla.attacks.base import TARGETS, Attack, lengths, loss_gradient, per_image, project
from limla.attacks.checks import check_choice, check_count, check_positive


class Pgd(Attack):
    """Gradient steps, each projected back onto the ball, from a uniformly random start inside it.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. Steps follow the sign of
    the gradient in "linf", and the gradient made `alpha` long in "l2".

    Args:
        eps: radius of the ball.
        steps: gradient steps, at least 1.
        alpha: length of one step, in the norm of the ball; in "linf" at most 1. To cross the ball, steps · alpha
            should exceed eps. None means 2.5 · eps / steps (as Madry et al. in "l2"): 2/255 for the usual ten steps
            at eps = 8/255.
        norm: "linf" or "l2".
        restarts: random starts, at least 1. Of each image's results the one counts that fools the model, and among
            several or none of these the one of the highest loss.
        target: see `TARGETS`. A targeted attack fools the model when that answers with the target.
    """

    name: ClassVar[str] = "pgd"
    norm = "linf"
    uses_seed: ClassVar[bool] = True

    def __init__(
        self,
        eps: float,
        steps: int = 10,
        alpha: float | None = None,
        norm: str = "linf",
        restarts: int = 1,
        target: str = "",
    ) -> None:
        super().__init__(eps, norm)
        self.steps = check_count(self.name, "steps", steps)
        self.restarts = check_count(self.name, "restarts", restarts)
        self.target = check_choice(self.name, "target", target, TARGETS)
        if alpha is None:
            # with an eps of 0 nothing is computed
            alpha = 2.5 * (self.eps or 8 / 255) / self.steps
            alpha = min(alpha, 1.0) if norm == "linf" else alpha
        if norm == "linf":
            what = "the length of a step on the [0, 1] scale (for example 2/255)"
            self.alpha = check_positive(self.name, "alpha", alpha, 1, what)
        else:
            self.alpha = check_positive(self.name, "alpha", alpha)
        # the results of several starts are compared, which takes one more pass each
        self.num_gradients = self.restarts * self.steps + (self.restarts if self.restarts > 1 else 0)

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        found: dict[str, Any] = {"alpha": self.alpha, "random_start": True, "steps": self.steps}
        # only where they differ from what there was before they were known, so that old cells keep their names
        if self.restarts > 1:
            found["restarts"] = self.restarts
        if self.target:
            found["target"] = self.target
        return found

    def _start(self, images: Tensor) -> Tensor:
        """(N, restarts, channels, H, W); further restarts leave the first ones as they are."""
        return torch.stack([self._draw(images) for _ in range(self.restarts)], dim=1)

    def _draw(self, images: Tensor) -> Tensor:
        if self.norm == "linf":
            # the numbers that torchattacks draws for the same seed
            noise = torch.empty_like(images).uniform_(-self.eps, self.eps)
        else:
            # uniform in a ball of d dimensions: a Gaussian direction, and a radius with density ∝ r^(d-1) (Muller,
            # Communications of the ACM 2(4), 1959)
            noise = torch.randn_like(images)
            radius = torch.rand_like(images[:, 0, 0, 0]).pow_(1 / images[0].numel()).mul_(self.eps)
            noise.mul_(per_image(radius / lengths(noise), images))
        return noise.add_(images).clamp_(0, 1)

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        best = self._climb(victim, images, classes, start[:, 0])
        if self.restarts == 1:
            return best
        best_fools, best_gain = self._judge(victim, best, classes)
        for number in range(1, self.restarts):
            found = self._climb(victim, images, classes, start[:, number])
            fools, gain = self._judge(victim, found, classes)
            better = (fools & ~best_fools) | ((fools == best_fools) & (gain > best_gain))
            best = torch.where(per_image(better, images), found, best)
            best_fools, best_gain = best_fools | fools, torch.where(better, gain, best_gain)
        return best

    def _climb(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        lowest, highest = (images - self.eps).clamp_(min=0), (images + self.eps).clamp_(max=1)
        length = -self.alpha if self.target else self.alpha
        adversarial = start
        for _ in range(self.steps):
            gradient = loss_gradient(victim, adversarial, classes)
            if self.norm == "linf":
                adversarial = torch.add(adversarial, gradient.sign_(), alpha=length).clamp_(lowest, highest)
            else:
                step = gradient * per_image(length / lengths(gradient), images)
                adversarial = project(adversarial + step, images, self.norm, self.eps)
        return adversarial

    @torch.no_grad()
    def _judge(self, victim: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each image fools the model, and how far the loss is where the attack wants it, (N,) both."""
        logits = victim(images)
        loss = nn.functional.cross_entropy(logits, classes, reduction="none")
        hits = logits.argmax(1) == classes
        return (hits, -loss) if self.target else (~hits, loss)
