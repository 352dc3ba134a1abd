"""What the attacks of the contract suites run on: a small network and images it is right about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limla.attacks.base import Attack, attack_norm, attack_parameters, build_attack
from limla.plans import ATTACK_KNOWLEDGE, parse_attack
from limla.registry import ATTACKS

EPS = 8 / 255
SIDE = 12
VARIANTS = ["gaussian-noise:norm=l2", "pgd:norm=l2", "pgd:restarts=2", "pgd:target=random", "cw:searches=2"]
NAMES = [*ATTACKS.names(), *VARIANTS]
"""Every attack of the catalogue with its defaults, and those that other parameters make."""
REAL = [name for name in NAMES if name != "none"]


def catalogue_name(name: str) -> str:
    """Of an attack with parameters: "pgd:norm=l2" is pgd."""
    return name.partition(":")[0]


def _known_as(*knowledge: str) -> list[str]:
    return [name for name in REAL if ATTACK_KNOWLEDGE[catalogue_name(name)] in knowledge]


WHITE_BOX = _known_as("white-box")
ATTACKING = _known_as("white-box", "black-box")
NOISE = _known_as("none")
SPLITTING = [name for name in ATTACKING if ATTACKS.load(catalogue_name(name)).splits_batches]
_FEWER: dict[str, dict[str, float]] = {
    "cw": {"steps": 20, "lr": 0.03},
    "square": {"n_queries": 300},
    "autoattack": {"steps": 20, "n_queries": 100},
}
"""Cheaper than the defaults, for attacks of thousands of passes."""


def make(name: str, eps: float = EPS) -> Attack:
    """The attack, where it takes eps with `eps` in linf, and with the length of its ball's corners in l2."""
    plan = parse_attack(name)
    if "eps" not in attack_parameters(plan.name):
        return build_attack(plan.name)
    parameters = {**_FEWER.get(plan.name, {}), **dict(plan.parameters)}
    norm = attack_norm(plan.name, parameters)
    return build_attack(plan.name, {**parameters, "eps": eps if norm == "linf" else eps * (3 * SIDE**2) ** 0.5})


def distances(attack: Attack, adversarial: Tensor, images: Tensor) -> Tensor:
    """(N,) how far each image has moved in the attack's norm."""
    order = float("inf") if attack.norm == "linf" else 2
    return torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model is right on."""
    return float((model(images).argmax(1) == labels).float().mean())


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


def labelled_images(num_images: int, seed: int, side: int = SIDE) -> tuple[Tensor, Tensor]:
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
