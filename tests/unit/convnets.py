"""A small model, and what tests of its fast copy compare."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from limla.models.victim import TOLERANCE


def lived_in(model: nn.Module, side: int = 32) -> nn.Module:
    """Give the batch norms weights and statistics that matter, as training would; in eval mode."""
    torch.manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        model.train()(torch.rand(8, 3, side, side))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def images_of(side: int = 32, num_images: int = 3) -> Tensor:
    return torch.rand(num_images, 3, side, side, generator=torch.Generator().manual_seed(1))


def eval_logits(model: nn.Module, images: Tensor) -> Tensor:
    reference = copy.deepcopy(model).eval()
    with torch.no_grad():
        return reference(images)


def assert_same_logits(model: nn.Module, victim: nn.Module, images: Tensor) -> None:
    expected, found = eval_logits(model, images), victim(images)
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


class ConvNet(nn.Module):
    """Two convolutions with batch norms; test_victim_habits.py derives users' models from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def features(self, images: Tensor) -> Tensor:
        hidden = torch.relu_(self.bn1(self.conv1(images)))
        return torch.relu_(self.bn2(self.conv2(hidden)))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images).mean(dim=(2, 3)))
