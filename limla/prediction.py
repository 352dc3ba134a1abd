"""What a model says of one photo, and what changes when the photo is compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from limla.codecs import build_codec
from limla.errors import SettingsError
from limla.loaders.geometry import to_planes
from limla.loaders.resizing import center_planes
from limla.metrics import psnr_db, rate_bpp
from limla.models.base import FORWARD_ERRORS, LoadedModel
from limla.types import Image


@dataclass(frozen=True)
class Answer:
    """A model's answer to one image.

    Attributes:
        codec, quality: "source" and None for the photo as it is.
        num_bytes: of the encoded image; for the photo as it is, of its own file.
        rate_bpp: 8 · num_bytes / (height · width) of the upright photo.
        psnr_db: of all pixels against the photo; infinity for the photo as it is.
        top: (class name, softmax probability), most probable first.
    """

    codec: str
    quality: int | None
    num_bytes: int
    rate_bpp: float
    psnr_db: float
    top: tuple[tuple[str, float], ...]

    @property
    def prediction(self) -> str:
        """The most probable class."""
        return self.top[0][0]


def predict(
    loaded: LoadedModel,
    image: Image,
    num_bytes: int,
    qualities: Sequence[int] = (),
    codec: str = "jpeg",
    num_top: int = 5,
) -> list[Answer]:
    """Ask a model about a photo as it is, then at each quality.

    Args:
        loaded: the model; preprocessing and class names are its own.
        image: the upright (H, W, 3) uint8 photo.
        num_bytes: of its file.
        qualities: of `codec`, with its default settings (JPEG: 4:2:0).
        num_top: classes to list, or all when there are fewer.

    Raises `UnknownNameError` or `SettingsError` for codec or quality, and `SettingsError` when the model cannot
    take the image.
    """
    height, width = image.shape[:2]
    plug = build_codec(codec)
    for quality in qualities:
        plug.scale.check(quality)
    rate = rate_bpp(num_bytes, height, width)
    answers = [Answer("source", None, num_bytes, rate, float("inf"), _top(loaded, image, num_top))]
    for quality in qualities:
        data = plug.encode(image, quality)
        decoded = plug.decode(data)
        answers.append(
            Answer(
                codec=codec,
                quality=quality,
                num_bytes=len(data),
                rate_bpp=rate_bpp(len(data), height, width),
                psnr_db=psnr_db(image, decoded),
                top=_top(loaded, decoded, num_top),
            )
        )
    return answers


@torch.no_grad()
def _top(loaded: LoadedModel, image: Image, num_top: int) -> tuple[tuple[str, float], ...]:
    preprocessing = loaded.info.preprocessing
    side = preprocessing.image_size
    planes = np.empty((3, *(image.shape[:2] if preprocessing.resize == "none" else (side, side))), np.float32)
    if preprocessing.resize == "none":
        to_planes(image, planes)
    else:
        center_planes(image, preprocessing, planes)
    device = next((parameter.device for parameter in loaded.model.parameters()), torch.device("cpu"))
    try:
        logits = loaded.model(torch.from_numpy(planes)[None].to(device))
    except FORWARD_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"model '{loaded.info.model}' cannot take an image of {planes.shape[1]}x{planes.shape[2]} pixels ({reason})"
        ) from error
    probabilities = logits[0].float().softmax(dim=0).cpu()
    values, indices = probabilities.topk(min(num_top, len(probabilities)))
    names = loaded.info.class_names
    return tuple((names[index], value) for value, index in zip(values.tolist(), indices.tolist(), strict=True))
