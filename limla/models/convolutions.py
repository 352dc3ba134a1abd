"""Convolutions with fixed weights, their activations and the convolutions behind them as one step, on the CPU.

Only the gradient of the images is ever wanted. It is itself a convolution, with the weights transposed and turned
round, and oneDNN's forward kernels are mostly faster than its backward ones. An activation is applied while the result
is in cache, and undone from the result, in the memory of a gradient that nobody else holds. Where maps are large, a
chain of convolutions is computed image by image, so that what one writes is still in cache when the next reads it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from limla.models.turning import PackedWeight, convolve, turned_convolution

ACTIVATIONS = (nn.ReLU, nn.ReLU6)
"""Layers that a convolution can take over; what they let through can be told from their result."""

CACHED_BYTES = 1 << 20
"""A chain with more bytes than this in the largest map of an image is computed image by image: a core's cache."""


class FrozenConv2d(nn.Conv2d):
    """The same convolution, the activation that stood behind it, and then `followers`; float32, channels-last, CPU.

    Under autocast, for other types, and when its own weights want gradients, it computes as `nn.Conv2d`.
    Gradients can be taken once, not of gradients.

    Attributes:
        activation: of `ACTIVATIONS`, or None.
        followers: convolutions that are all that reads the result of the one before; without followers themselves.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        nn.Module.__init__(self)
        # every attribute and the very same parameters: a stranger's code may read them
        self.__dict__.update(conv.__dict__)
        self._parameters = dict(conv._parameters)
        self._modules = {}
        self.activation = activation
        self.followers = nn.ModuleList()
        self._limits = [0.0, 6.0] if isinstance(activation, nn.ReLU6) else []
        self._kind = {None: "none", nn.ReLU: "relu", nn.ReLU6: "hardtanh"}[activation and type(activation)]
        self._packing = PackedWeight(conv.groups)
        self._turned = turned_convolution(conv)

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
        """(N, C, H, W) → (N, C', H', W'), as the convolutions and their activations."""
        chain = self._chain()
        usual = (
            input.ndim != 4
            or input.dtype != torch.float32
            or not input.is_cpu
            or input.numel() == 0
            or any(
                weight.requires_grad
                for layer in chain
                for weight in layer._parameters.values()
                if weight is not None
            )
            or torch.is_autocast_enabled("cpu")
        )
        if usual:
            return self._forward_usual(input, chain)
        if torch.is_grad_enabled() and input.requires_grad:
            result: Any = _Step.apply(input, chain)
            return result
        images = input.contiguous(memory_format=torch.channels_last)
        return _joined([_results(part, chain)[-1] for part in _parts(images, chain)])

    def _chain(self) -> list[FrozenConv2d]:
        followers: Any = self.followers
        return [self, *followers]

    def _forward_usual(self, images: Tensor, chain: list[FrozenConv2d]) -> Tensor:
        for layer in chain:
            images = nn.Conv2d.forward(layer, images)
            images = images if layer.activation is None else layer.activation(images)
        return images

    def forward_step(self, images: Tensor) -> Tensor:
        """This convolution and its activation, no graph and no followers."""
        return convolve(
            images,
            self.weight,
            self._packing,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self._kind,
            self._limits,
        )

    def result_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result of images of this size."""
        return tuple(  # pyright: ignore[reportReturnType]
            (length + 2 * int(padding) - dilation * (size - 1) - 1) // stride + 1
            for length, padding, dilation, size, stride in zip(
                (height, width), self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )

    def image_gradient(self, gradient: Tensor, result: Tensor | None, shape: torch.Size, ours: bool) -> Tensor:
        """Gradient of this convolution's input, of `shape`, from that of its result; `ours` may be written to."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if result is not None:
            room = gradient if ours else torch.empty_like(gradient)
            if self._limits:
                torch.ops.aten.hardtanh_backward.grad_input(gradient, result, *self._limits, grad_input=room)
            else:
                torch.ops.aten.threshold_backward.grad_input(gradient, result, 0.0, grad_input=room)
            gradient = room
        if self._turned is not None:
            return self._turned(gradient, self.weight, shape)
        # never read, but its layout decides the kernel
        like_input = torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        return torch.ops.aten.convolution_backward(
            gradient, like_input, self.weight, None, self.stride, self.padding, self.dilation, False, [0, 0],
            self.groups, [True, False, False],
        )[0]  # fmt: skip


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, chain: list[FrozenConv2d]) -> Tensor:
        ctx.is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        parts = _parts(images, chain)
        results = [_results(part, chain) for part in parts]
        ctx.chain, ctx.sizes = chain, [len(part) for part in parts]
        ctx.shapes = [images.shape, *(result.shape for result in results[0][:-1])]
        ctx.save_for_backward(
            *(
                result if layer.activation is not None else None
                for of_part in results
                for layer, result in zip(chain, of_part, strict=True)
            )
        )
        return _joined([of_part[-1] for of_part in results])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        chain, saved = ctx.chain, ctx.saved_tensors
        found: list[Tensor] = []
        for part, gradient in enumerate(gradients[0].split(ctx.sizes)):
            results = saved[part * len(chain) : (part + 1) * len(chain)]
            for place in reversed(range(len(chain))):
                shape = torch.Size((len(gradient), *ctx.shapes[place][1:]))
                ours = place < len(chain) - 1
                gradient = chain[place].image_gradient(gradient, results[place], shape, ours)
            found.append(gradient)
        gradient = _joined(found)
        # what comes before in the images' layout goes on in it
        return gradient if ctx.is_channels_last else gradient.contiguous(), None


def _parts(images: Tensor, chain: list[FrozenConv2d]) -> tuple[Tensor, ...]:
    """The batch, or each image where a chain's maps do not fit into a core's cache."""
    if len(images) == 1 or len(chain) == 1:
        return (images,)
    largest, (height, width) = 0, images.shape[2:]
    for layer in chain:
        height, width = layer.result_shape(height, width)
        largest = max(largest, layer.out_channels * height * width * images.element_size())
    return images.split(1) if largest > CACHED_BYTES else (images,)


def _results(images: Tensor, chain: list[FrozenConv2d]) -> list[Tensor]:
    results = [images]
    for layer in chain:
        results.append(layer.forward_step(results[-1]))
    return results[1:]


def _joined(results: list[Tensor]) -> Tensor:
    return results[0] if len(results) == 1 else torch.cat(results)
