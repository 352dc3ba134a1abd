"""What an attacker differentiates: the model alone, or the model behind the defence, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limla.attacks.base import SplitsBatches
from limla.defences.codec import CodecDefence


def attackers_view(victim: nn.Module, defence: CodecDefence | None, threat: str) -> nn.Module:
    """The model that an attacker computes gradients of.

    Args:
        victim: images in [0, 1] → (N, C) logits.
        defence: what stands before it; None where nothing does.
        threat: a name of `limla.plans.THREATS` that fits the defence; "" without one.

    Returns `victim` itself where the attacker knows of no defence, else a model of the same inputs and outputs, which
    splits batches where `victim` does.
    """
    if defence is None or threat in ("", "static"):
        return victim
    if threat == "bpda":
        quality = defence.plan.qualities[0]
        return _Behind(victim, lambda images: _StraightThrough.apply(images, defence, quality))
    raise AssertionError(threat)


class _Behind(nn.Module):
    """A victim behind a function of its images."""

    def __init__(self, victim: nn.Module, before: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.victim = victim
        self._before = before

    def forward(self, images: Tensor) -> Tensor:
        return self.victim(self._before(images))

    def run_parts(self, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """See `SplitsBatches`."""
        if not isinstance(self.victim, SplitsBatches):
            return work(self, *tensors)
        return self.victim.run_parts(lambda model, *parts: work(_Behind(model, self._before), *parts), *tensors)


class _StraightThrough(torch.autograd.Function):
    """The real codec forward, the identity backward (BPDA)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, defence: CodecDefence, quality: int) -> Tensor:
        return defence.apply_at(images, (quality,) * len(images)).images

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None
