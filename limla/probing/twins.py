"""Barlow Twins: an encoder that learns from pairs of views, without labels.

Zbontar, Jing, Misra, LeCun & Deny: Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from limla.errors import LimlaError
from limla.models.base import IMAGENET_MEAN, IMAGENET_STD, Normalise

NUM_FEATURES = 128
"""Of the encoder, what the linear probe sees."""
NUM_EMBEDDED = 256
"""Of the projector, what the twins are compared by."""
TRADE_OFF = 0.0051 * (8192 - 1) / (NUM_EMBEDDED - 1)
"""λ of the loss. The paper's 0.0051 is for 8192 values, each beside 8191 others; with fewer it grows in proportion."""
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
_STEM_WIDTHS = (32, 32, 64)
_STEM_HALVINGS = len(_STEM_WIDTHS)
_IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class TwinsCheck:
    """The twins of the test images against each other.

    Attributes:
        loss: `barlow_loss` of all test images at once.
        diagonal: mean of the cross-correlation's diagonal: 1 for values that do not depend on the view.
        off_diagonal: mean absolute value beside it: 0 for values that each say something of their own, about
            `chance_off_diagonal` for as many that do, measured on so few images.
    """

    loss: float
    diagonal: float
    off_diagonal: float


def chance_off_diagonal(num_images: int) -> float:
    """The mean |correlation| of independent values over so many images: √(2 / (π · N)), the normal approximation."""
    return math.sqrt(2 / (math.pi * num_images))


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """The (D, D) correlations over the batch between the values of two (N, D) embeddings (the paper's equation 2)."""
    left, right = (
        functional.normalize(values - values.mean(dim=0), dim=0, eps=1e-9) for values in (first, second)
    )
    return left.T @ right


def barlow_loss(correlation: Tensor, trade_off: float = TRADE_OFF) -> Tensor:
    """Σ_i (1 − C_ii)² + λ Σ_i Σ_{j≠i} C_ij², of a (D, D) cross-correlation (the paper's equation 1)."""
    diagonal = correlation.diagonal()
    off_diagonal = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + trade_off * off_diagonal


class _Signs(nn.Module):
    """The first layer of an encoder of codes: 0 and 1 become −1 and 1."""

    def forward(self, codes: Tensor) -> Tensor:
        return 2 * codes - 1


class _Unit(nn.Module):
    """The first layers of an encoder of pixels: 0 … 255 to [0, 1], then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.normalise(pixels / 255)


def build_encoder(kind: Literal["pixels", "codes"], num_channels: int, cell: int) -> nn.Sequential:
    """(N, num_channels, h, w) float32 of the stored values → (N, NUM_FEATURES).

    Three convolutions of the stem and two of the trunk, 3 × 3, the same widths for every input. The stem takes pixels
    to 1/8 of their resolution; of codes, which are at 1/cell already, it halves only as often as is left to do. The
    first one on codes is 1 × 1: a code stands for its block of pixels by itself, and hundreds of bits would make a
    3 × 3 one half of all parameters.
    """
    halvings = max(0, _STEM_HALVINGS - round(math.log2(cell)))
    strides = [2] * halvings + [1] * (_STEM_HALVINGS - halvings) + [1, 2]
    layers: list[nn.Module] = [_Unit() if kind == "pixels" else _Signs()]
    kernels = [3 if kind == "pixels" else 1, 3, 3, 3, 3]
    widths = (*_STEM_WIDTHS, NUM_FEATURES, NUM_FEATURES)
    before = num_channels
    for width, kernel, stride in zip(widths, kernels, strides, strict=True):
        layers += [
            nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def build_projector() -> nn.Sequential:
    """(N, NUM_FEATURES) → (N, NUM_EMBEDDED): three linear layers, as the paper's but narrower."""
    layers: list[nn.Module] = []
    before = NUM_FEATURES
    for _ in range(2):
        layers += [
            nn.Linear(before, NUM_EMBEDDED, bias=False),
            nn.BatchNorm1d(NUM_EMBEDDED),
            nn.ReLU(inplace=True),
        ]
        before = NUM_EMBEDDED
    return nn.Sequential(*layers, nn.Linear(before, NUM_EMBEDDED, bias=False))


@dataclass
class Twins:
    """An encoder and its projector on a device.

    Attributes:
        encoder: see `build_encoder`; projector: see `build_projector`.
    """

    encoder: nn.Sequential
    projector: nn.Sequential
    device: torch.device

    @classmethod
    def build(
        cls, kind: Literal["pixels", "codes"], num_channels: int, cell: int, seed: int, device: torch.device
    ) -> Twins:
        """With the first weights of a seed; the process's own random numbers stay as they are."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder, projector = build_encoder(kind, num_channels, cell), build_projector()
        return cls(encoder.to(device), projector.to(device), device)

    @property
    def num_parameters(self) -> int:
        """Of the encoder."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    def train(
        self, views: npt.NDArray[np.uint8], epochs: int, seed: int, advance: Callable[[int], None]
    ) -> float:
        """Learn from (N, V, C, h, w) views; returns the last epoch's mean loss.

        Adam with a cosine schedule to 0. Order and views follow from the seed alone, so every input sees the same views
        of the same images in each step. Raises `LimlaError` where the loss is not finite.
        """
        num_images, num_views = views.shape[:2]
        assert num_images >= 2
        assert num_views >= 2
        generator = np.random.default_rng(seed)
        modules = nn.ModuleList([self.encoder, self.projector]).train()
        optimizer = torch.optim.Adam(modules.parameters(), lr=LEARNING_RATE)
        num_batches = max(1, round(num_images / BATCH_SIZE))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * num_batches)
        mean_loss = math.nan
        for _ in range(epochs):
            losses: list[float] = []
            pairs = np.argsort(generator.random((num_images, num_views)), axis=1)[:, :2]
            for batch in np.array_split(generator.permutation(num_images), num_batches):
                optimizer.zero_grad(set_to_none=True)
                both = np.concatenate([views[batch, pairs[batch, twin]] for twin in range(2)])
                loss = barlow_loss(cross_correlation(*self._embedded(both)))
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                advance(len(batch))
            mean_loss = float(np.mean(losses))
            if not math.isfinite(mean_loss):
                raise LimlaError(f"Barlow Twins training diverged: the loss is {mean_loss}")
        return mean_loss

    @torch.no_grad()
    def check(self, views: npt.NDArray[np.uint8]) -> TwinsCheck:
        """The cross-correlation of the first two of (N, V, C, h, w) views."""
        self.encoder.eval()
        self.projector.eval()
        embedded = [
            torch.cat([self.projector(self.encoder(part)) for part in self._batches(views[:, twin])]).double()
            for twin in range(2)
        ]
        correlation = cross_correlation(*embedded)
        diagonal = correlation.diagonal()
        others = correlation.numel() - len(diagonal)
        beside = float(correlation.abs().sum() - diagonal.abs().sum()) / others
        return TwinsCheck(float(barlow_loss(correlation)), float(diagonal.mean()), beside)

    @torch.no_grad()
    def features(self, whole: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, NUM_FEATURES) of (N, C, h, w) whole images."""
        self.encoder.eval()
        return torch.cat([self.encoder(part) for part in self._batches(whole)]).cpu().numpy()

    def _embedded(self, both: npt.NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Each half by itself, as the paper does: batch norm sees one kind of view at a time."""
        first, second = self._tensor(both).chunk(2)
        return self.projector(self.encoder(first)), self.projector(self.encoder(second))

    def _batches(self, images: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
        starts = range(0, len(images), _IMAGES_AT_ONCE)
        return (self._tensor(images[start : start + _IMAGES_AT_ONCE]) for start in starts)

    def _tensor(self, values: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(self.device).float()
