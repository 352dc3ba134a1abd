"""What is settled before training: the patches' principal components, and in which order their digits are sent."""

from __future__ import annotations

import heapq
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.codecs.autoencoder_network import NUM_QUALITIES, PATCH
from limla.errors import DataError

FloatArray = npt.NDArray[np.float64]
STEP = 0.22
"""Of the finest digit, in units of 64 levels of gray times the 8 of an orthonormal 8 × 8 patch."""
_BASE = 3
_MOST_DIGITS = 7
_RARE = 1e-3
_MOST_CHANNELS = 96
_LEAST_BITS = 4.0
"""Of a code position at the worst quality, as the components alone take them: 0.06 bits per pixel."""


@dataclass(frozen=True)
class CodePlan:
    """The code before its network is trained.

    A number is written in balanced ternary, so that the first digits of a number are the nearest one of a uniform
    quantiser with a step 3, 9 … times as large, and every prefix is a code.

    Attributes:
        components: (C, PATCH) float64, orthonormal rows: the principal components of patches.
        spreads: (C,) float64, their standard deviations.
        order: for each digit, in the order of sending, (channel, power of three).
        lengths: (NUM_QUALITIES + 1,) int64, how many digits of `order` a quality keeps; quality 0 none.
        distortions: for each quality from 0 (nothing sent), the squared error that the components alone leave, of a
            patch.
        slopes: for each quality, how much squared error of a patch its last bit removes.
    """

    components: FloatArray
    spreads: FloatArray
    order: tuple[tuple[int, int], ...]
    lengths: npt.NDArray[np.int64]
    distortions: FloatArray
    slopes: FloatArray

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.components)

    def powers_of_quality(self) -> npt.NDArray[np.int64]:
        """(NUM_QUALITIES + 1, C): the power of three of the last digit kept; -1 where none is."""
        found = np.full((NUM_QUALITIES + 1, self.num_channels), -1, np.int64)
        for quality in range(1, NUM_QUALITIES + 1):
            found[quality] = found[quality - 1]
            for channel, power in self.order[self.lengths[quality - 1] : self.lengths[quality]]:
                found[quality, channel] = power
        return found

    def steps_of_quality(self) -> FloatArray:
        """(NUM_QUALITIES + 1, C): the step of each number; of those not sent at all, that of their first digit."""
        powers = self.powers_of_quality()
        return STEP * np.power(float(_BASE), np.where(powers < 0, self.num_digits(), powers))

    def kept_of_quality(self) -> FloatArray:
        """(NUM_QUALITIES + 1, C): the share of the digits kept, 0 to 1."""
        powers, digits = self.powers_of_quality(), self.num_digits()
        return np.where(powers < 0, 0.0, (digits - powers) / np.maximum(digits, 1))

    def num_digits(self) -> npt.NDArray[np.int64]:
        """(C,): digits in front of the finest one that is sent, counted from power 0."""
        digits = np.zeros(self.num_channels, np.int64)
        for channel, power in self.order:
            digits[channel] = max(digits[channel], power + 1)
        return digits

    def limits(self) -> FloatArray:
        """(C,): the largest number that the digits write."""
        return STEP * (np.power(float(_BASE), self.num_digits()) - 1) / 2

    def as_dict(self) -> dict[str, Any]:
        """As plain values and arrays; `CodePlan(**values)` reads it back."""
        return asdict(self)


def plan_code(patches: FloatArray, num_digits: int) -> CodePlan:
    """The principal components of (N, PATCH) centred patches, and the order of digits that removes most error per bit.

    Bits are the entropy of the digits of one number alone. The greedy choice is that of optimal bit allocation
    (Shoham and Gersho 1988) where the rate-distortion curves are convex. Raises `DataError` for too little to learn
    from.
    """
    channels = _MOST_CHANNELS
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    components = vectors[:, ::-1][:, :channels].T.copy()
    # a component and its negative are the same: the largest entry is positive on every machine
    components *= np.sign(components[np.arange(channels), np.abs(components).argmax(axis=1)])[:, None]
    spreads = np.sqrt(np.maximum(values[::-1][:channels], 0))
    numbers = patches @ components.T
    curves = [_curve(numbers[:, channel]) for channel in range(channels)]
    queue: list[tuple[float, int]] = []
    for channel, curve in enumerate(curves):
        _offer(queue, curve, channel)
    order: list[tuple[int, int]] = []
    error, bits = float((patches**2).sum(axis=1).mean()), 0.0
    path = [(bits, error, 0.0)]
    while len(order) < num_digits and queue:
        slope, channel = heapq.heappop(queue)
        power, removed, cost = curves[channel].pop(0)
        error, bits = error - removed, bits + cost
        order.append((channel, power))
        path.append((bits, error, -slope))
        _offer(queue, curves[channel], channel)
    if len(order) < num_digits or bits <= _LEAST_BITS:
        raise DataError(
            f"too little to learn a code from: {len(patches)} patches of 8 × 8 pixels, {len(order)} of {num_digits} "
            f"digits, {bits:.1f} bits each; train on more, or less flat, images, or ask for fewer --bits"
        )
    used = 1 + max(channel for channel, _ in order)
    rates, distortions, slopes = np.array(path).T
    lengths = _lengths(rates)
    return CodePlan(
        components[:used], spreads[:used], tuple(order), lengths, distortions[lengths], slopes[lengths]
    )


def _lengths(rates: FloatArray) -> npt.NDArray[np.int64]:
    """How many digits each quality keeps, from none at 0: rates that grow by one factor, where digits are so fine."""
    wanted = np.geomspace(_LEAST_BITS, rates[-1], NUM_QUALITIES)
    lengths = np.concatenate([[0], np.searchsorted(rates, wanted)])
    lengths[-1] = len(rates) - 1
    for quality in range(1, NUM_QUALITIES + 1):
        lengths[quality] = max(lengths[quality], lengths[quality - 1] + 1)
    for quality in reversed(range(NUM_QUALITIES)):
        lengths[quality] = min(lengths[quality], lengths[quality + 1] - 1)
    return lengths


def _offer(queue: list[tuple[float, int]], curve: list[tuple[int, float, float]], channel: int) -> None:
    """Put a channel's next digit in the queue: it is worth what it and those after it are at best."""
    removed, bits, best = 0.0, 0.0, 0.0
    for _, each_removed, each_bits in curve:
        removed, bits = removed + each_removed, bits + each_bits
        best = max(best, removed / max(bits, 1e-3))
    if curve:
        heapq.heappush(queue, (-best, channel))


def _curve(numbers: FloatArray) -> list[tuple[int, float, float]]:
    """(power of three, squared error removed, bits) of each digit, the first one first."""
    found: list[tuple[int, float, float]] = []
    error, bits = float((numbers**2).mean()), 0.0
    for power in reversed(range(_MOST_DIGITS)):
        step = STEP * _BASE**power
        levels = np.round(numbers / step)
        if not found and power > 0 and (levels != 0).mean() < _RARE:
            continue
        after = float(((numbers - levels * step) ** 2).mean())
        counts = np.unique(levels, return_counts=True)[1] / len(levels)
        entropy = float(-(counts * np.log2(counts)).sum())
        found.append((power, error - after, entropy - bits))
        error, bits = after, entropy
    return found


def patches_of(pixels: npt.NDArray[np.float32], height: int, width: int) -> FloatArray:
    """All whole patches of a (3, H, W) array, as `torch.nn.functional.pixel_unshuffle` orders their values."""
    block = int((PATCH // 3) ** 0.5)
    rows, columns = height // block, width // block
    cut = pixels[:, : rows * block, : columns * block].reshape(3, rows, block, columns, block)
    return cut.transpose(1, 3, 0, 2, 4).reshape(rows * columns, PATCH).astype(np.float64)
