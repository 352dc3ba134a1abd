"""AutoAttack, put together from torchattacks' parts."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torchattacks
from torch import Tensor, nn

from limla.attacks.base import Attack
from limla.attacks.checks import check_count, check_squares_fit

_MOST_TARGETS = 9


class AutoAttack(Attack):
    """APGD-CE, targeted APGD, targeted FAB and Square, each on the images that withstood the ones before.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020: its standard version, one restart each, targeted at the min(9, classes - 1) most likely wrong classes.
    (torchattacks' own `AutoAttack` takes 10 steps for 100, all classes as targets, and needs four of them.) With
    fewer than four classes the targeted loss, which is scaled by the third and fourth logit, is the plain difference of
    the two logits. Starts are drawn for the images that are left, so results depend on the batch. Images that it
    cannot fool the model with stay as they are.

    Args:
        eps: radius of the ball.
        norm: "linf", or "l2" (square images of at least 25 × 25 pixels).
        steps: of APGD and FAB, at least 1; the standard version has 100.
        n_queries: of Square, at least 1; the standard version has 5000.
    """

    name: ClassVar[str] = "autoattack"
    norm = "linf"
    uses_seed: ClassVar[bool] = True
    splits_batches: ClassVar[bool] = False

    def __init__(self, eps: float, norm: str = "linf", steps: int = 100, n_queries: int = 5000) -> None:
        super().__init__(eps, norm)
        self.steps = check_count(self.name, "steps", steps)
        self.n_queries = check_count(self.name, "n_queries", n_queries)
        # each attack looks at the images first and at its result last; the targeted ones do so for every target, and
        # a step of FAB is one pass with gradients and one without
        apgd = self.steps + 3
        targeted_apgd = 2 + _MOST_TARGETS * (self.steps + 2)
        targeted_fab = 2 + _MOST_TARGETS * (2 * self.steps + 3)
        self.num_gradients = apgd + targeted_apgd + targeted_fab + self.n_queries + 4

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {"n_queries": self.n_queries, "steps": self.steps, "version": "standard"}

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        check_squares_fit(self.name, self.norm, images)
        # torchattacks turns gradients on where it needs them, and would keep every step's graph elsewhere
        with torch.no_grad():
            return self._library(victim, victim(images[:1]).shape[1])(images, classes)

    def _library(self, victim: nn.Module, num_classes: int) -> torchattacks.MultiAttack:
        num_targets = min(_MOST_TARGETS, num_classes - 1)
        norm, seed = "Linf" if self.norm == "linf" else "L2", torch.initial_seed()
        shared = {"norm": norm, "eps": self.eps, "seed": seed}
        parts = [
            torchattacks.APGD(victim, steps=self.steps, **shared),
            _TargetedApgd(victim, steps=self.steps, n_restarts=num_targets, loss="dlr", **shared),
            torchattacks.FAB(
                victim, steps=self.steps, multi_targeted=True, n_classes=num_targets + 1, **shared
            ),
            torchattacks.Square(victim, n_queries=self.n_queries, **shared),
        ]
        return torchattacks.MultiAttack(parts)


class _TargetedApgd(torchattacks.APGD):
    """APGD with the targeted DLR loss; each restart aims at the next most likely wrong class.

    torchattacks' `APGDT` gives every image the step length of the first one in "L2".
    """

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(N, channels, H, W) and (N,) → the adversarial images, or the images where there are none."""
        self._rank = 1
        return super().forward(images, labels)

    def attack_single_run(self, x_in: Tensor, y_in: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `torchattacks.APGD`: called once for every restart."""
        self._rank += 1
        self._targets = self.get_logits(x_in).argsort(dim=1)[:, -self._rank]
        return super().attack_single_run(x_in, y_in)

    def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The (N,) targeted losses of (N, C) logits x with right classes y: Croce & Hein, equation 7."""
        gain = x.gather(1, self._targets[:, None])[:, 0] - x.gather(1, y[:, None])[:, 0]
        if x.shape[1] < 4:
            return gain
        ordered = x.sort(dim=1)[0]
        return gain / (ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12)
