"""What an attacker differentiates: the model alone, or the model behind the defence, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limla.attacks.base import SplitsBatches
from limla.defences.codec import CodecDefence
from limla.registry import DIFFERENTIABLE

Passage = Callable[[Tensor, int | None], Tensor]
"""(images, threads that a codec may use; None for all) → the images behind the defence."""


def attackers_view(victim: nn.Module, defence: CodecDefence | None, threat: str) -> nn.Module:
    """The model that an attacker computes gradients of.

    Args:
        victim: images in [0, 1] → (N, C) logits.
        defence: what stands before it; None where nothing does.
        threat: a name of `limla.plans.THREATS` that fits the defence; "" without one.

    Returns `victim` itself where the attacker knows of no defence, else a model of the same inputs and outputs, which
    splits batches where `victim` does. Of a defence that draws a quality at random, its logits are the mean over all
    qualities.
    """
    if defence is None or threat in ("", "static"):
        return victim
    qualities = defence.plan.qualities
    assert threat.startswith("eot-") == (len(qualities) > 1), (threat, qualities)
    if threat.endswith("bpda"):
        return _Behind(victim, [partial(_straight_through, defence, quality) for quality in qualities])
    assert threat.endswith("differentiable"), threat
    model = DIFFERENTIABLE.load(defence.plan.codec)
    return _Behind(victim, [partial(_differentiable, model, quality) for quality in qualities])


class _Behind(nn.Module):
    """A victim behind one of several passages: the mean of its logits over them."""

    def __init__(
        self, victim: nn.Module, passages: Sequence[Passage], codec_threads: int | None = None
    ) -> None:
        super().__init__()
        self.victim = victim
        self._passages = tuple(passages)
        self._codec_threads = codec_threads

    def forward(self, images: Tensor) -> Tensor:
        first, *others = self._passages
        logits = self.victim(first(images, self._codec_threads))
        for passage in others:
            logits = logits + self.victim(passage(images, self._codec_threads))
        return logits / len(self._passages) if others else logits

    def run_parts(self, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """See `SplitsBatches`."""
        if not isinstance(self.victim, SplitsBatches):
            return work(self, *tensors)

        def work_behind(model: nn.Module, *parts: Tensor) -> Tensor:
            # parts are computed side by side, each with its share of the threads
            is_part = len(parts[0]) < len(tensors[0])
            threads = torch.get_num_threads() if is_part else None
            return work(_Behind(model, self._passages, threads), *parts)

        return self.victim.run_parts(work_behind, *tensors)


def _straight_through(defence: CodecDefence, quality: int, images: Tensor, threads: int | None) -> Tensor:
    return _StraightThrough.apply(images, defence, quality, threads)  # pyright: ignore[reportReturnType]


def _differentiable(
    model: Callable[[Tensor, int], Tensor], quality: int, images: Tensor, threads: int | None
) -> Tensor:
    return model(images, quality)


class _StraightThrough(torch.autograd.Function):
    """The real codec forward, the identity backward (BPDA)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, defence: CodecDefence, quality: int, threads: int | None) -> Tensor:
        return defence.apply_at(images, (quality,) * len(images), threads).images

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0], None, None, None
