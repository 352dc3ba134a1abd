"""The autoencoder as torch trains it; what it learns is used in whole numbers (`limla.codecs.autoencoder_network`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from limla.codec_training.plan import CodePlan
from limla.codecs.autoencoder_network import BLOCK, PATCH

FloatArray = npt.NDArray[np.float64]
_BEGIN_AT_ZERO = (
    "analyse_patch.bias", "analyse_out.bias", "synthesise_patch.bias", "synthesise_out.bias", "synthesise_add.bias"
)  # fmt: skip


class Autoencoder(nn.Module):
    """Pixels → numbers on a grid an eighth as large → pixels.

    The encoder is the patches' principal components and, beside them, two convolutions that look beyond the patch;
    the decoder the components turned back and, beside them, four that see the neighbours, which is where a block
    code's seams go. The parts beside begin at zero, so training begins at the principal components.

    Args:
        plan: components, steps and the order of the digits.
        width: channels of the convolutions.
    """

    def __init__(self, plan: CodePlan, width: int) -> None:
        super().__init__()
        channels = plan.num_channels
        self.analyse_patch = nn.Conv2d(PATCH, channels, 1)
        self.analyse_in = nn.Conv2d(PATCH, width, 3, padding=1)
        self.analyse_out = nn.Conv2d(width, channels, 3, padding=1)
        self.synthesise_patch = nn.Conv2d(channels, PATCH, 1)
        self.synthesise_in = nn.Conv2d(channels, width, 3, padding=1)
        self.synthesise_kept = nn.Linear(channels, width)
        self.synthesise_mid = nn.Conv2d(width, width, 3, padding=1)
        self.synthesise_add = nn.Conv2d(width, width, 3, padding=1)
        self.synthesise_out = nn.Conv2d(width, PATCH, 3, padding=1)
        self.steps: Tensor
        self.kept: Tensor
        self.limits: Tensor
        self.register_buffer("steps", torch.tensor(plan.steps_of_quality(), dtype=torch.float32))
        self.register_buffer("kept", torch.tensor(plan.kept_of_quality(), dtype=torch.float32))
        self.register_buffer("limits", torch.tensor(plan.limits(), dtype=torch.float32))
        self._begin_at(plan)

    def _begin_at(self, plan: CodePlan) -> None:
        components = torch.tensor(plan.components, dtype=torch.float32)  # (C, PATCH)
        spread = torch.tensor(plan.spreads, dtype=torch.float32).clamp(min=0.1)
        with torch.no_grad():
            self.analyse_patch.weight.copy_(components[:, :, None, None])
            self.synthesise_patch.weight.copy_(components.T[:, :, None, None])
            self.synthesise_in.weight.div_(spread[None, :, None, None])
            for layer in (self.analyse_out, self.synthesise_out, self.synthesise_add):
                layer.weight.mul_(0.01)
            for name, value in self.named_parameters():
                if name in _BEGIN_AT_ZERO:
                    value.zero_()

    def analyse(self, pixels: Tensor) -> Tensor:
        """(N, 3, 8h, 8w) centred pixels → (N, C, h, w) numbers."""
        patches = functional.pixel_unshuffle(pixels, BLOCK)
        beyond = self.analyse_out(functional.relu(self.analyse_in(patches)))
        return self.analyse_patch(patches) + beyond

    def quantise(self, numbers: Tensor, qualities: Tensor) -> Tensor:
        """What is left of the numbers at each sample's quality, (N,) int64; gradients pass straight through
        (Bengio et al. 2013)."""
        steps = self.steps[qualities][:, :, None, None]
        held = (self.kept[qualities] > 0).to(numbers.dtype)[:, :, None, None]
        limits = self.limits[None, :, None, None]
        inside = torch.maximum(torch.minimum(numbers, limits), -limits) * held
        return inside + (torch.round(inside / steps) * steps * held - inside).detach()

    def synthesise(self, numbers: Tensor, qualities: Tensor) -> Tensor:
        """The inverse of `analyse`, for what `quantise` left."""
        known = self.synthesise_kept(self.kept[qualities])[:, :, None, None]
        hidden = functional.relu(self.synthesise_in(numbers) + known)
        hidden = hidden + self.synthesise_add(functional.relu(self.synthesise_mid(hidden)))
        patches = self.synthesise_patch(numbers) + self.synthesise_out(functional.relu(hidden))
        return functional.pixel_shuffle(patches, BLOCK)

    def forward(self, pixels: Tensor, qualities: Tensor) -> tuple[Tensor, Tensor]:
        """The decoded pixels, and about how many bits per position the code takes, (N,)."""
        numbers = self.analyse(pixels)
        decoded = self.synthesise(self.quantise(numbers, qualities), qualities)
        sizes = numbers.abs() / self.steps[qualities][:, :, None, None]
        held = (self.kept[qualities] > 0).to(numbers.dtype)[:, :, None, None]
        bits = (1.5 * torch.log2(1 + sizes) * held).sum(dim=1).mean(dim=(1, 2))
        return decoded, bits

    def layers(self) -> Mapping[str, tuple[FloatArray, FloatArray]]:
        """Layer → (weights (out, in, k, k), biases), as numpy has them."""
        found: dict[str, tuple[FloatArray, FloatArray]] = {}
        for name, layer in self.named_children():
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            assert layer.bias is not None
            weight = layer.weight.detach().double().cpu().numpy()
            found[name] = (
                weight.reshape(*weight.shape, *(1,) * (4 - weight.ndim)),
                layer.bias.detach().double().cpu().numpy(),
            )
        return found
