"""What the attacks of the contract suites run on: a small network and images it is right about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limla.attacks.base import Attack, attack_parameters, build_attack
from limla.registry import ATTACKS

EPS = 8 / 255
NAMES = ATTACKS.names()
REAL = [name for name in NAMES if name != "none"]


def make(name: str, eps: float = EPS) -> Attack:
    """The attack, with `eps` where it takes one."""
    return build_attack(name, {"eps": eps}) if "eps" in attack_parameters(name) else build_attack(name)


class SmallNet(nn.Module):
    """Every layer kind whose mode or state an attack could spoil."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).mean(dim=(2, 3))
        return self.head(self.dropout(features))


def labelled_images(num_images: int, seed: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noise whose class is the brightest colour channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % 3
    images = 0.35 + 0.3 * torch.rand(num_images, 3, side, side, generator=generator)
    images[torch.arange(num_images), labels] += 0.05
    return images.clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small model that is right on nearly every one of `labelled_images`, in eval mode. Read only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(80):
            images, labels = labelled_images(48, seed=step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """24 images that `trained` has not seen, with their labels."""
    return labelled_images(24, seed=1000)
