"""`FrozenConv2d` against torch's own convolution and autograd, over the ways a convolution can be set."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from limla.models import convolutions
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
        # few channels: the gradient of the images, place by place between two results
        {"in_channels": 3, "kernel_size": 3, "padding": 1, "stride": 2},
        {"in_channels": 3, "kernel_size": 3, "padding": 0, "stride": 2},
        {"in_channels": 1, "kernel_size": 7, "padding": 3, "stride": 2},
        {"in_channels": 3, "kernel_size": 5, "padding": 1, "stride": 4},
        {"in_channels": 3, "kernel_size": 4, "padding": 0, "stride": 4},
        {"in_channels": 3, "kernel_size": (3, 5), "padding": (0, 2), "stride": 3},
        {"in_channels": 3, "kernel_size": 3, "padding": 7, "stride": 2},
        {"in_channels": 3, "kernel_size": 2, "padding": 1, "stride": 3},
        {"in_channels": 3, "kernel_size": 3, "padding": 1, "stride": (1, 2)},
        {"in_channels": 3, "kernel_size": 3, "padding": 1, "stride": 2, "dilation": 2},
        {"in_channels": 4, "kernel_size": 3, "padding": 1, "stride": 2, "groups": 2},
        {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1, "stride": 2, "groups": 3},
    ],
    ids=str,
)
def test_result_and_gradient_are_torchs(settings: dict[str, Any], side: int, activation: Any) -> None:
    torch.manual_seed(0)
    settings = {"in_channels": 8, "out_channels": 8, **settings}
    conv = nn.Conv2d(**settings).requires_grad_(False)
    follower = activation() if activation else None
    assert FrozenConv2d.suits(conv)
    frozen = FrozenConv2d(conv, follower)
    images = 4 * torch.randn(3, conv.in_channels, side, side)
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


def chain_of(*layers: nn.Module) -> tuple[FrozenConv2d, nn.Sequential]:
    """A chain of convolutions with the activations that follow them, and the same layers as torch runs them."""
    plain = nn.Sequential(*layers).requires_grad_(False)
    frozen = [
        FrozenConv2d(layer, behind if isinstance(behind, convolutions.ACTIVATIONS) else None)
        for layer, behind in zip(layers, (*layers[1:], None), strict=True)
        if isinstance(layer, nn.Conv2d)
    ]
    frozen[0].followers.extend(frozen[1:])
    return frozen[0], plain


@pytest.mark.parametrize("by_image", [False, True])
@pytest.mark.parametrize("last", [nn.Identity(), nn.ReLU()])
def test_a_chain_is_its_layers(last: nn.Module, by_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    chain, plain = chain_of(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 5, 1), last
    )  # fmt: skip
    # the largest map of an image is that of the first layer
    monkeypatch.setattr(convolutions, "CACHED_BYTES", 8 * 7 * 7 * 4 - by_image)
    images = 8 * torch.randn(3, 3, 13, 13)
    assert len(convolutions._parts(images, chain._chain())) == (3 if by_image else 1)
    probe = images.clone().requires_grad_(True)
    expected = plain(probe)
    direction = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, probe, direction)
    result = chain(probe)
    kept = direction.clone()
    (gradient,) = torch.autograd.grad(result, probe, direction)
    assert torch.equal(direction, kept), "the gradient that came in is not ours to write to"
    assert torch.allclose(result, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(chain(images), result)
    doubled = images.double()
    assert torch.allclose(chain.double()(doubled), plain.double()(doubled))


def test_a_packed_weight_serves_other_shapes_and_copies() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, padding=1).requires_grad_(False)
    first, second = FrozenConv2d(conv, None), FrozenConv2d(conv, None)
    few, many = torch.rand(1, 16, 5, 5), torch.rand(6, 16, 40, 40)
    of_few, of_many = first(few), second(many)
    assert torch.equal(first(many), of_many), "which batch came first does not matter"
    assert torch.equal(copy.deepcopy(second)(few), of_few)


def test_a_changed_weight_is_packed_anew() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, 2, 1).requires_grad_(False)
    frozen = FrozenConv2d(conv, None)
    other = nn.Conv2d(3, 8, 3, 2, 1).requires_grad_(False)
    images = torch.rand(2, 3, 9, 9).requires_grad_(True)

    def assert_same() -> None:
        found, expected = (
            torch.autograd.grad(layer(images).square().sum(), images)[0] for layer in (frozen, other)
        )
        assert torch.allclose(frozen(images), other(images), atol=1e-5)
        assert torch.allclose(found, expected, atol=1e-4)

    frozen(images).sum().backward()
    frozen.load_state_dict(other.state_dict())
    assert_same()
    for layer in (frozen, other):
        layer.weight.mul_(2)
    assert_same()
    frozen, before = copy.deepcopy(frozen), frozen
    frozen.weight.neg_()
    other.weight.neg_()
    assert_same()
    assert not torch.allclose(frozen(images), before(images))
    frozen = pickle.loads(pickle.dumps(frozen))
    assert_same()
