"""Adversarial training: the batches that a model learns from, and is judged on, are attacked first."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from limla.attacks.base import build_attack
from limla.attacks.checks import caution
from limla.errors import DataError, LimlaError
from limla.plans import AttackPlan
from limla.types import Batch


class Adversary:
    """Attacks batches against the model as it is at that moment (Madry et al., ICLR 2018).

    The attack sees the model in eval mode, float32, as evaluation does: batch norm's running statistics neither
    change while it searches nor depend on what it makes. Its random starts come from the seed, the place of the
    batch in the run, and in training the rank.
    """

    def __init__(self, plan: AttackPlan, seed: int, rank: int, world_size: int) -> None:
        self._attack = build_attack(plan.name, dict(plan.parameters))
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def describe(self) -> dict[str, Any]:
        """The attack with all its parameters: JSON types only."""
        return {
            "name": self._attack.name,
            "norm": self._attack.norm,
            "eps": self._attack.eps,
            **self._attack.settings(),
        }

    @property
    def caution(self) -> str:
        """A line about an attack that cannot do what it is asked for; "" when there is nothing to say."""
        return caution(self._attack)

    def check(self, model: nn.Module, height: int, width: int, device: torch.device) -> None:
        """Attack two grey images: raises `SettingsError` for a model that cannot be attacked; it is left as it was."""
        images = torch.full((2, 3, height, width), 0.5, device=device)
        self._attack.run(model, images, torch.zeros(2, dtype=torch.int64, device=device), seed=0)

    def in_training(self, model: nn.Module, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch to learn from in place of the `number`-th of this rank in an epoch."""
        return self._attacked(model, batch, f"train {epoch} {number} {self._rank}")

    def in_validation(self, model: nn.Module, batch: Batch, number: int) -> Batch:
        """The batch to be judged on in place of this rank's `number`-th: started alike in every epoch and for any
        number of processes."""
        return self._attacked(model, batch, f"val {number * self._world_size + self._rank}")

    def _attacked(self, model: nn.Module, batch: Batch, place: str) -> Batch:
        digest = hashlib.sha256(f"limla adversary {self._seed} {place}".encode()).digest()
        try:
            images = self._attack.run(model, batch.images, batch.labels, int.from_bytes(digest[:8], "big") >> 1)
        except DataError as error:
            raise LimlaError(
                f"training diverged: the {self._attack.name} attack finds logits or gradients that are not finite; "
                "lower --learning-rate, into another output folder"
            ) from error
        return replace(batch, images=images)
