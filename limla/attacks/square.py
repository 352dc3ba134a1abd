"""The square attack, through torchattacks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torchattacks
from torch import Tensor, nn

from limla.attacks.base import Attack
from limla.attacks.checks import check_count, check_positive, check_squares_fit

_LARGEST_P = 0.8


class Square(Attack):
    """Random search with squares, which sees the model's outputs and no gradient.

    Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random search", ECCV 2020.
    The squares of a step lie at one place in all images of the batch, so results depend on the batch. Images that it
    cannot fool the model with stay as they are.

    Args:
        eps: radius of the ball.
        norm: "linf", or "l2" (square images of at least 25 × 25 pixels).
        n_queries: passes through the model for an image that withstands, at least 1.
        p_init: share of the image that the first squares cover, above 0 to 0.8; it falls as queries are spent.
    """

    name: ClassVar[str] = "square"
    norm = "linf"
    knowledge: ClassVar[str] = "black-box"
    uses_seed: ClassVar[bool] = True
    splits_batches: ClassVar[bool] = False

    def __init__(
        self, eps: float, norm: str = "linf", n_queries: int = 5000, p_init: float = _LARGEST_P
    ) -> None:
        super().__init__(eps, norm)
        self.n_queries = check_count(self.name, "n_queries", n_queries)
        self.p_init = check_positive(self.name, "p_init", p_init, _LARGEST_P, "a share of the image")
        # the image itself, the first stripes, and the result are looked at too
        self.num_gradients = self.n_queries + 3

    def settings(self) -> dict[str, Any]:
        """See `Attack.settings`."""
        return {"n_queries": self.n_queries, "p_init": self.p_init}

    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        check_squares_fit(self.name, self.norm, images)
        library = torchattacks.Square(
            victim,
            norm="Linf" if self.norm == "linf" else "L2",
            eps=self.eps,
            n_queries=self.n_queries,
            p_init=self.p_init,
            seed=torch.initial_seed(),
        )
        with torch.no_grad():
            return library(images, classes)
