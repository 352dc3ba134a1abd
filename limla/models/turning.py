"""The image gradient of a convolution as a convolution of its result's gradient; float32, channels-last, CPU."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class PackedWeight:
    """A weight in the order that oneDNN's kernels read it in, kept from call to call, and by copies too.

    Without it, every call would put the weight into that order anew, for a batch of few images at a cost like that
    of the convolution itself where maps are small. It is made again when the weight has changed, which an
    operation on `weight.data` hides.

    Args:
        arrange: what the convolution uses instead of the weight itself.
    """

    def __init__(self, groups: int, arrange: Callable[[Tensor], Tensor] | None = None) -> None:
        self.groups = groups
        self._arrange = arrange
        self._packed: _Packed | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        del memo
        copied = PackedWeight(self.groups, self._arrange)
        copied._packed = self._packed
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def of(
        self,
        weight: Tensor,
        images: Tensor,
        padding: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
    ) -> Tensor:
        """The weight for these images; once packed for some, it serves any."""
        kept = self._packed
        if kept is None or not kept.is_of(weight):
            arranged = weight.detach() if self._arrange is None else self._arrange(weight.detach())
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                arranged, padding, stride, dilation, self.groups, list(images.shape)
            )
            kept = self._packed = _Packed(weakref.ref(weight), weight.data_ptr(), weight._version, packed)
        return kept.packed


class _Packed(NamedTuple):
    """What was packed of which state of which weight."""

    source: weakref.ref[Tensor]
    address: int
    version: int
    packed: Tensor

    def is_of(self, weight: Tensor) -> bool:
        return self.source() is weight and (self.address, self.version) == (weight.data_ptr(), weight._version)


def convolve(
    images: Tensor,
    weight: Tensor,
    packing: PackedWeight,
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
    packed = packing.of(weight, images, padding, stride, dilation)
    return step(images, packed, bias, padding, stride, dilation, packing.groups, activation, limits, "")


_NARROW = 4
"""Most channels of images whose gradient oneDNN's own backward computes slowly when the convolution has a stride."""


class TurnedConvolution(Protocol):
    """(gradient of the result, the convolution's weight, shape of the images) → gradient of the images."""

    def __call__(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor: ...


def turned_convolution(conv: nn.Conv2d) -> TurnedConvolution | None:
    """The convolution that gives the image gradient of `conv`; None for those that oneDNN's own backward must."""
    if conv.stride == (1, 1):
        turned = _Turned(conv)
        return turned if min(turned.padding) >= 0 else None
    narrow = conv.in_channels <= _NARROW and conv.groups == 1
    if not narrow or conv.dilation != (1, 1) or conv.stride[0] != conv.stride[1]:
        return None
    axes = [_phases(conv.kernel_size[axis], conv.stride[axis], int(conv.padding[axis])) for axis in range(2)]
    rows, columns = axes
    return None if rows is None or columns is None else _SubPixel(conv, rows, columns)


class _Turned:
    """Of a stride of 1: the weights transposed and turned round."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.padding = [
            dilation * (size - 1) - int(padding)
            for dilation, size, padding in zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)
        ]
        self._packing = PackedWeight(conv.groups, self._arrange)
        self._groups, self._dilation = conv.groups, conv.dilation

    def _arrange(self, weight: Tensor) -> Tensor:
        """(C', C / groups, …) → (C, C' / groups, …)."""
        grouped = weight.unflatten(0, (self._groups, -1)).transpose(1, 2).flatten(0, 1)
        return grouped.flip(2, 3).contiguous(memory_format=torch.channels_last)

    def __call__(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        del shape
        return convolve(gradient, weight, self._packing, None, self.padding, (1, 1), self._dilation)


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

    def __init__(self, conv: nn.Conv2d, rows: _Phases, columns: _Phases) -> None:
        self._stride = conv.stride[0]
        self._rows, self._columns = rows, columns
        self._packing = PackedWeight(1, self._arrange)

    def _arrange(self, weight: Tensor) -> Tensor:
        """(C', C, …) → (stride · stride · C, C', …): the images' channels of each place in turn."""
        stride, sizes = self._stride, (len(self._rows.taps[0]), len(self._columns.taps[0]))
        turned = weight.new_zeros(stride, stride, weight.shape[1], weight.shape[0], *sizes)
        for y_phase, y_taps in enumerate(self._rows.taps):
            for x_phase, x_taps in enumerate(self._columns.taps):
                for (y, y_tap), (x, x_tap) in itertools.product(enumerate(y_taps), enumerate(x_taps)):
                    if y_tap is not None and x_tap is not None:
                        turned[y_phase, x_phase, :, :, y, x] = weight[:, :, y_tap, x_tap].t()
        return turned.flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def __call__(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        number, channels, *lengths = shape
        axes = (self._rows, self._columns)
        cells = [-(-length // self._stride) for length in lengths]
        # as much as the side needs that needs more; oneDNN pads both alike
        padding = [
            max(-axis.first_offset, cell + axis.first_offset + len(axis.taps[0]) - 1 - length, 0)
            for axis, cell, length in zip(axes, cells, gradient.shape[2:], strict=True)
        ]
        found = convolve(gradient, weight, self._packing, None, padding, (1, 1), (1, 1)).permute(0, 2, 3, 1)
        top, left = (pad + axis.first_offset for pad, axis in zip(padding, axes, strict=True))
        found = found[:, top : top + cells[0], left : left + cells[1]]
        # two neighbours of a row follow one another already: whole runs are copied
        found = found.unflatten(3, (self._stride, self._stride * channels)).transpose(2, 3)
        found = found.reshape(number, cells[0] * self._stride, cells[1] * self._stride, channels)
        return found[:, : lengths[0], : lengths[1]].permute(0, 3, 1, 2)
