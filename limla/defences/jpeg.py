"""A differentiable model of JPEG at 4:2:0, by kornia."""

from __future__ import annotations

import torch
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor


def differentiable_jpeg(images: Tensor, quality: int) -> Tensor:
    """What `JpegCodec` makes of images, nearly, with gradients.

    Shin & Song, "JPEG-resistant adversarial images", NIPS workshop on machine learning and computer security 2017;
    Reich et al., "Differentiable JPEG: the devil is in the details", WACV 2024. Forward as backward, x is rounded to
    round(x) + (x - round(x))³; chroma is halved after a blur, and enlarged as libjpeg does.

    Args:
        images: (N, 3, H, W) float32 in [0, 1], of any size.
        quality: 1 to 100.

    Returns (N, 3, H, W) float32 in [0, 1].
    """
    # on the CPU: kornia looks at its value, and would wait for a GPU
    return jpeg_codec_differentiable(images, torch.tensor([float(quality)])).clamp(0, 1)
