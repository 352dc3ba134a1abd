"""The defence itself: every image through the real codec, as a real bitstream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limla.codecs import build_codec
from limla.plans import DefencePlan
from limla.types import Image


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
        """Send a batch through the codec.

        Args:
            images: (N, 3, H, W) float32 in [0, 1], on any device; left untouched.
            seed: of the qualities drawn; equal seeds draw equal ones, whatever the images.
        """
        return self.apply_at(images, self.draw(len(images), seed))

    def apply_at(self, images: Tensor, qualities: Sequence[int]) -> Defended:
        """`apply` with the quality of each image given; thread-safe."""
        # the codec takes rows of pixels; rounding to the nearest of 256 is part of storing a picture
        levels = (
            (images.detach() * 255)
            .round_()
            .clamp_(0, 255)
            .byte()
            .permute(0, 2, 3, 1)
            .contiguous()
            .cpu()
            .numpy()
        )
        work = list(zip(levels, qualities, strict=True))
        if self._num_threads == 1 or len(work) < 2:
            done = [self._through(*item) for item in work]
        else:
            with ThreadPoolExecutor(min(self._num_threads, len(work))) as pool:
                done = list(pool.map(lambda item: self._through(*item), work))
        pixels = np.empty(levels.shape, np.uint8)
        for place, (decoded, _) in enumerate(done):
            pixels[place] = decoded
        decoded = torch.from_numpy(pixels).to(images.device).permute(0, 3, 1, 2)
        return Defended(decoded.to(torch.float32).div_(255), tuple(number for _, number in done))

    def _through(self, image: Image, quality: int) -> tuple[Image, int]:
        data = self._codec.encode(image, quality)
        return self._codec.decode(data), len(data)
