"""The defence itself: every image through the real codec, as a real bitstream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from limla.codecs import build_codec
from limla.plans import DefencePlan

_TASKS_PER_THREAD = 2
"""Tasks that a batch is cut into, per thread: images differ in how long they take."""


class Defended(NamedTuple):
    """What a defence made of a batch.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1] on the device of the batch: what the model is given.
        num_bytes: of each image's bitstream.
    """

    images: Tensor
    num_bytes: tuple[int, ...]


class CodecDefence:
    """Rounds images to 8 bits, encodes and decodes each with a codec at one quality or at one drawn from several.

    Attributes:
        plan: codec and qualities.

    Args:
        num_threads: that encode and decode; None means all the cores this process may use.
    """

    def __init__(self, plan: DefencePlan, num_threads: int | None = None) -> None:
        self.plan = plan
        self._codec = build_codec(plan.codec)
        self._num_threads = num_threads or len(os.sched_getaffinity(0))

    def settings(self) -> dict[str, Any]:
        """The codec's pinned settings and library version: JSON types only."""
        return {**self._codec.settings(), "version": self._codec.version()}

    def draw(self, num_images: int, seed: int) -> tuple[int, ...]:
        """The quality of each image of a batch: with several, drawn with equal probability."""
        qualities = self.plan.qualities
        if len(qualities) == 1:
            return qualities * num_images
        places = np.random.default_rng(seed).integers(len(qualities), size=num_images)
        return tuple(qualities[place] for place in places.tolist())

    def apply(self, images: Tensor, seed: int) -> Defended:
        """Send a batch through the codec; thread-safe.

        Args:
            images: (N, 3, H, W) float32 in [0, 1], on any device; left untouched.
            seed: of the qualities drawn; equal seeds draw equal ones, whatever the images.
        """
        return self.apply_at(images, self.draw(len(images), seed))

    def apply_at(self, images: Tensor, qualities: Sequence[int], num_threads: int | None = None) -> Defended:
        """`apply` with the quality of each image given, on at most `num_threads` threads; thread-safe."""
        levels = _to_levels(images)
        assert len(qualities) == len(levels), (len(qualities), len(levels))
        pixels = np.empty_like(levels)

        def through(places: range) -> list[int]:
            sizes: list[int] = []
            for place in places:
                data = self._codec.encode(levels[place], qualities[place])
                pixels[place] = self._codec.decode(data)
                sizes.append(len(data))
            return sizes

        threads = min(num_threads or self._num_threads, len(levels))
        if threads < 2:
            num_bytes = tuple(through(range(len(levels))))
        else:
            step = -(-len(levels) // (_TASKS_PER_THREAD * threads))
            tasks = [range(first, min(first + step, len(levels))) for first in range(0, len(levels), step)]
            with ThreadPoolExecutor(threads, "limla-codec") as pool:
                num_bytes = tuple(size for sizes in pool.map(through, tasks) for size in sizes)
        decoded = torch.from_numpy(pixels).to(images.device).permute(0, 3, 1, 2)
        return Defended(decoded.to(torch.float32).div_(255), num_bytes)


def _to_levels(images: Tensor) -> npt.NDArray[np.uint8]:
    """(N, 3, H, W) in [0, 1] → (N, H, W, 3) uint8, rounded to the nearest of 256: part of storing a picture."""
    levels = (images.detach() * 255).round_().clamp_(0, 255).byte()
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
