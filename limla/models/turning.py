"""The image gradient of a convolution as a convolution of its result's gradient; float32, channels-last, CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class PackedWeight:
    """A weight in the order that oneDNN's kernels read it in, made when it is first used; copies share it.

    Without it, every call would put the weight into that order anew, for a batch of few images at a cost like that
    of the convolution itself where maps are small.
    """

    def __init__(self, weight: Tensor, groups: int) -> None:
        self.groups = groups
        self._weight = weight.detach()
        self._packed: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        return self

    def of(
        self, images: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
    ) -> Tensor:
        """The weight for these images; once packed for some, it serves any."""
        packed = self._packed
        if packed is None:
            packed = self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self._weight, padding, stride, dilation, self.groups, list(images.shape)
            )
        return packed


def convolve(
    images: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    padding: Any,
    stride: Any,
    dilation: Any,
    activation: str = "none",
    limits: Sequence[float] = (),
) -> Tensor:
    """(N, C, H, W) → (N, C', H', W'): a convolution, and "none", "relu" or "hardtanh" of its result."""
    # called by name: for small batches on one thread torch's own choice of a kernel is a slower one
    step = torch.ops.mkldnn._convolution_pointwise
    packed = weight.of(images, padding, stride, dilation)
    return step(images, packed, bias, padding, stride, dilation, weight.groups, activation, limits, "")


_NARROW = 4
"""Most channels of images whose gradient oneDNN's own backward computes slowly when the convolution has a stride."""


class TurnedConvolution(Protocol):
    """(gradient of the result, shape of the images) → gradient of the images."""

    def __call__(self, gradient: Tensor, shape: torch.Size) -> Tensor: ...


def turned_convolution(conv: nn.Conv2d) -> TurnedConvolution | None:
    """The convolution that gives the image gradient of `conv`; None for those that oneDNN's own backward must."""
    if conv.stride == (1, 1):
        turned = _Turned(conv)
        return turned if min(turned.padding) >= 0 else None
    if conv.in_channels > _NARROW or conv.dilation != (1, 1) or conv.stride[0] != conv.stride[1]:
        return None
    axes = [_phases(conv.kernel_size[axis], conv.stride[axis], int(conv.padding[axis])) for axis in range(2)]
    return _SubPixel(conv, axes) if all(axis is not None for axis in axes) else None


class _Turned:
    """Of a stride of 1: the weights transposed and turned round."""

    def __init__(self, conv: nn.Conv2d) -> None:
        depth, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        height, width = conv.kernel_size
        turned = conv.weight.detach().reshape(conv.groups, outputs, depth, height, width).transpose(1, 2)
        turned = turned.reshape(conv.in_channels, outputs, height, width).flip(2, 3)
        self.padding = [
            dilation * (size - 1) - int(padding)
            for dilation, size, padding in zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)
        ]
        self._weight = PackedWeight(turned.contiguous(memory_format=torch.channels_last), conv.groups)
        self._dilation = conv.dilation

    def __call__(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        del shape
        return convolve(gradient, self._weight, None, self.padding, (1, 1), self._dilation)


class _Phases(NamedTuple):
    """Along one axis: which tap of the kernel each of the places between two results reads at each offset.

    With i = stride · q + phase, the gradient of place i is the sum over taps of weight[tap] · gradient[q + offset].
    """

    taps: list[list[int | None]]
    first_offset: int


def _phases(size: int, stride: int, padding: int) -> _Phases | None:
    """None where a place reads nothing, or not the results nearest to it."""
    found: list[dict[int, int]] = []
    for phase in range(stride):
        start, rest = divmod(phase + padding, stride)
        found.append({start - step: tap for step, tap in enumerate(range(rest, size, stride))})
    offsets = [offset for of_phase in found for offset in of_phase]
    first, last = min(offsets), max(offsets)
    if first > 0 or last < 0 or size < stride:
        return None
    return _Phases([[of_phase.get(offset) for offset in range(first, last + 1)] for of_phase in found], first)


class _SubPixel:
    """Of a strided convolution: all places between two results at once, as channels, then put in their places.

    Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
    """

    def __init__(self, conv: nn.Conv2d, axes: Sequence[_Phases | None]) -> None:
        rows, columns = axes
        assert rows is not None
        assert columns is not None
        stride = conv.stride[0]
        height, width = len(rows.taps[0]), len(columns.taps[0])
        weight = conv.weight.detach()
        turned = weight.new_zeros(stride, stride, conv.in_channels, conv.out_channels, height, width)
        for y_phase, x_phase in ((y, x) for y in range(stride) for x in range(stride)):
            for y, y_tap in enumerate(rows.taps[y_phase]):
                for x, x_tap in enumerate(columns.taps[x_phase]):
                    if y_tap is not None and x_tap is not None:
                        turned[y_phase, x_phase, :, :, y, x] = weight[:, :, y_tap, x_tap].t()
        turned = turned.reshape(-1, conv.out_channels, height, width)
        self._weight = PackedWeight(turned.contiguous(memory_format=torch.channels_last), 1)
        self._stride, self._sizes = stride, (height, width)
        self._first = (rows.first_offset, columns.first_offset)

    def __call__(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        number, channels, *lengths = shape
        cells = [-(-length // self._stride) for length in lengths]
        # as much as the side needs that needs more; oneDNN pads both alike
        padding = [
            max(-first, cell + first + size - 1 - length, 0)
            for first, cell, size, length in zip(
                self._first, cells, self._sizes, gradient.shape[2:], strict=True
            )
        ]
        found = convolve(gradient, self._weight, None, padding, (1, 1), (1, 1)).permute(0, 2, 3, 1)
        top, left = (pad + first for pad, first in zip(padding, self._first, strict=True))
        found = found[:, top : top + cells[0], left : left + cells[1]]
        # two neighbours of a row follow one another already: whole runs are copied
        found = found.unflatten(3, (self._stride, self._stride * channels)).transpose(2, 3)
        found = found.reshape(number, cells[0] * self._stride, cells[1] * self._stride, channels)
        return found[:, : lengths[0], : lengths[1]].permute(0, 3, 1, 2)
