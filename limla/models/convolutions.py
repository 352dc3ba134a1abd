"""A convolution with fixed weights and its activation as one step, for attacks and predictions on the CPU.

Only the gradient of the images is ever wanted. For a stride of 1 it is itself a convolution, with the weights
transposed and turned round, and oneDNN's forward kernels are much faster than its backward ones where the
layers are narrow or depthwise. The activation is applied while the result is in cache, and is undone from the
result, so the values before it are never stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ACTIVATIONS = (nn.ReLU, nn.ReLU6)
"""Layers that a convolution can take over; what they let through can be told from their result."""


class FrozenConv2d(nn.Conv2d):
    """The same convolution, and after it the activation that stood behind it; float32, channels-last, CPU.

    Under autocast, for other types, and when its own weights want gradients, it computes as `nn.Conv2d`.
    Gradients can be taken once, not of gradients.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        nn.Module.__init__(self)
        # every attribute and the very same parameters: a stranger's code may read them
        self.__dict__.update(conv.__dict__)
        self._parameters = dict(conv._parameters)
        self.activation = activation
        depth, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        height, width = conv.kernel_size
        turned = conv.weight.detach().reshape(conv.groups, outputs, depth, height, width).transpose(1, 2)
        turned = turned.reshape(conv.in_channels, outputs, height, width).flip(2, 3)
        turned_padding = [
            dilation * (size - 1) - int(padding)
            for dilation, size, padding in zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)
        ]
        depthwise = conv.groups == conv.in_channels == conv.out_channels
        turns = min(turned_padding) >= 0 and (conv.stride == (1, 1) or depthwise)
        self._turned_padding = turned_padding if turns else None
        # a parameter, so that copies share it
        self.turned_weight = (
            nn.Parameter(turned.contiguous(memory_format=torch.channels_last), requires_grad=False)
            if turns
            else None
        )

    @staticmethod
    def suits(conv: nn.Module) -> bool:
        """Whether a convolution can be replaced: padded with zeros, float32."""
        return (
            isinstance(conv, nn.Conv2d)
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and conv.weight.dtype == torch.float32
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(N, C, H, W) → (N, C', H', W'), as the convolution and its activation."""
        usual = (
            input.ndim != 4
            or input.dtype != torch.float32
            or not input.is_cpu
            or input.numel() == 0
            or self.weight.requires_grad
            or torch.is_autocast_enabled("cpu")
        )
        if usual:
            result = super().forward(input)
            return result if self.activation is None else self.activation(result)
        images = input.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() and images.requires_grad:
            result: Any = _Step.apply(images, self)
            return result
        return self.forward_step(images)

    def forward_step(self, images: Tensor) -> Tensor:
        """Convolution and activation, no graph."""
        kind = {None: "none", nn.ReLU: "relu", nn.ReLU6: "hardtanh"}[self.activation and type(self.activation)]
        limits = [0.0, 6.0] if kind == "hardtanh" else []
        return _convolve(
            images, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, kind, limits
        )

    def image_gradient(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Gradient of the convolution's input, of `shape`, from that of its result."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if self._turned_padding is None or self.turned_weight is None:
            like_input = gradient.new_empty(1).expand(shape)
            return torch.ops.aten.convolution_backward(
                gradient, like_input, self.weight, None, self.stride, self.padding, self.dilation, False, [0, 0],
                self.groups, [True, False, False],
            )[0]  # fmt: skip
        if self.stride != (1, 1):
            gradient = self._spread(gradient, shape)
        return _convolve(
            gradient,
            self.turned_weight,
            None,
            self._turned_padding,
            (1, 1),
            self.dilation,
            self.groups,
            "none",
            [],
        )

    def _spread(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The result's gradient with zeros where the stride skipped a place."""
        assert self._turned_padding is not None
        height, width = (
            length + self.dilation[axis] * (self.kernel_size[axis] - 1) - 2 * self._turned_padding[axis]
            for axis, length in enumerate(shape[2:])
        )
        spread = torch.empty(
            (*gradient.shape[:2], height, width), dtype=gradient.dtype, memory_format=torch.channels_last
        ).zero_()
        spread[:, :, :: self.stride[0], :: self.stride[1]] = gradient
        return spread


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, layer: FrozenConv2d) -> Tensor:
        result = layer.forward_step(images)
        ctx.layer, ctx.shape = layer, images.shape
        if layer.activation is not None:
            ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), layer = gradients, ctx.layer
        if layer.activation is not None:
            (result,) = ctx.saved_tensors
            if isinstance(layer.activation, nn.ReLU6):
                gradient = torch.ops.aten.hardtanh_backward(gradient, result, 0.0, 6.0)
            else:
                gradient = torch.ops.aten.threshold_backward(gradient, result, 0.0)
        return layer.image_gradient(gradient, ctx.shape), None


def _convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    activation: str,
    limits: list[float],
) -> Tensor:
    # called by name: for small batches on one thread torch's own choice of a kernel is a slower one
    step = torch.ops.mkldnn._convolution_pointwise
    return step(images, weight, bias, padding, stride, dilation, groups, activation, limits, "")
