"""`FrozenConv2d` against torch's own convolution and autograd, over the ways a convolution can be set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limla.models.convolutions import FrozenConv2d

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("side", [11, 12])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 0, "bias": False},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3, "padding": 1, "groups": 8},
        {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 8},
        {"kernel_size": 5, "padding": 2, "stride": (2, 3), "groups": 8},
        {"kernel_size": 3, "padding": 2, "stride": 2, "dilation": 2, "groups": 8},
        {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 16},
        {"kernel_size": 3, "padding": 1, "groups": 8, "out_channels": 16, "stride": 2},
    ],
    ids=str,
)
def test_result_and_gradient_are_torchs(settings: dict[str, Any], side: int, activation: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(
        8, settings.get("out_channels", 8), **{k: v for k, v in settings.items() if k != "out_channels"}
    )
    conv.requires_grad_(False)
    follower = activation() if activation else None
    assert FrozenConv2d.suits(conv)
    frozen = FrozenConv2d(conv, follower)
    images = 4 * torch.randn(3, 8, side, side)
    direction: torch.Tensor | None = None
    found = []
    for layer in (nn.Sequential(conv, follower or nn.Identity()), frozen):
        probe = images.clone().requires_grad_(True)
        result = layer(probe)
        if direction is None:
            direction = torch.randn_like(result)
        found.append((result.detach(), torch.autograd.grad((result * direction).sum(), probe)[0]))
    (expected, expected_gradient), (result, gradient) = found
    assert torch.allclose(result, expected, atol=1e-4)
    assert torch.allclose(gradient, expected_gradient, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(frozen(images), expected, atol=1e-4)


def test_other_types_empty_batches_and_autocast_take_torchs_way() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    frozen = FrozenConv2d(conv, nn.ReLU())
    images = torch.rand(2, 3, 8, 8)
    assert frozen(images[:0]).shape == (0, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen(images).dtype == torch.bfloat16
    assert torch.allclose(frozen.double()(images.double()), torch.relu(conv(images.double())))


@pytest.mark.parametrize(
    "settings", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}, {"dtype": torch.float64}]
)
def test_what_does_not_suit(settings: dict[str, Any]) -> None:
    assert not FrozenConv2d.suits(nn.Conv2d(3, 4, 3, **settings))
