"""What is known of the image codecs from the literature, on real photographs: who needs fewer bits at equal PSNR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from limla.codecs import build_codec
from limla.metrics import psnr_db, rate_bpp
from limla.statistics.rate_curves import bd_metrics
from limla.types import Image

QUALITIES = {
    "jpeg": (10, 25, 45, 70, 88),
    "jpeg-progressive": (10, 25, 45, 70, 88),
    "jpeg2000": (245, 270, 295, 320, 345),
    "webp": (2, 12, 35, 65, 82),
    "avif": (20, 33, 45, 57, 68),
}


@pytest.fixture(scope="module")
def photos(flowers: Path) -> list[Image]:
    """Eight photographs, reduced to 256 pixels, so that the blocks of their own JPEG are gone."""
    images: list[Image] = []
    for path in sorted(flowers.rglob("*.jpg"))[::75][:8]:
        with PIL.Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((256, 256), PIL.Image.Resampling.LANCZOS)
            images.append(np.asarray(small))
    assert len(images) == 8
    return images


def curve(name: str, images: list[Image]) -> tuple[list[float], list[float]]:
    """Mean bits per pixel and mean PSNR at each quality."""
    codec = build_codec(name)
    rates, scores = [], []
    for quality in QUALITIES[name]:
        files = [codec.encode(image, quality) for image in images]
        pairs = list(zip(files, images, strict=True))
        rates.append(float(np.mean([rate_bpp(len(file), *image.shape[:2]) for file, image in pairs])))
        scores.append(float(np.mean([psnr_db(image, codec.decode(file)) for file, image in pairs])))
    return rates, scores


def test_newer_codecs_need_fewer_bits_at_equal_psnr(photos: list[Image]) -> None:
    curves = {name: curve(name, photos) for name in QUALITIES}

    def saved(old: str, new: str) -> float:
        result = bd_metrics(*curves[old], *curves[new])
        assert result.bd_rate_percent is not None, result.reason
        assert result.overlap > 0.7
        return -result.bd_rate_percent

    assert 2 < saved("jpeg", "jpeg-progressive") < 12
    assert 15 < saved("jpeg", "jpeg2000") < 50
    assert 20 < saved("jpeg", "webp") < 50
    assert 10 < saved("webp", "avif") < 40
