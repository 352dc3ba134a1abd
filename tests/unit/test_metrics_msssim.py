"""MS-SSIM against the paper's formulae, written out with plain convolutions."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as PillowImage
from scipy.signal import convolve2d

from limla.metrics import ms_ssim, ssim
from limla.types import Image

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _by_the_paper(one: Image, other: Image) -> float:
    """Equations 1 to 7 of Wang, Simoncelli & Bovik (2003) in double precision."""
    x, y = (image.astype(np.float64) @ (0.299, 0.587, 0.114) for image in (one, other))
    ramp = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(ramp, ramp) / ramp.sum() ** 2

    def mean(plane: np.ndarray) -> np.ndarray:
        return convolve2d(plane, window, mode="valid")

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product = 1.0
    for scale, weight in enumerate(_WEIGHTS):
        mean_x, mean_y = mean(x), mean(y)
        covariance = mean(x * y) - mean_x * mean_y
        variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
        structure = (2 * covariance + c2) / (variances + c2)
        if scale == len(_WEIGHTS) - 1:
            structure = structure * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        product *= structure.mean() ** weight
        x, y = (
            convolve2d(np.pad(plane, ((0, 1), (0, 1)), mode="edge"), np.full((2, 2), 0.25), mode="valid")[
                ::2, ::2
            ]
            for plane in (x, y)
        )
    return float(product)


def _jpeg(image: Image, quality: int) -> Image:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(PillowImage.open(buffer))


@pytest.mark.parametrize(("shape", "quality"), [((176, 176), 5), ((197, 251), 20), ((240, 320), 80)])
def test_ms_ssim_is_the_papers(make_photo: Callable[..., Image], shape: tuple[int, int], quality: int) -> None:
    image = make_photo(*shape, seed=quality)
    decoded = _jpeg(image, quality)
    assert ms_ssim(image, decoded) == pytest.approx(_by_the_paper(image, decoded), abs=5e-5)


def test_ms_ssim_by_hand(make_photo: Callable[..., Image]) -> None:
    image = make_photo(180, 200, seed=1)
    assert ms_ssim(image, image) == pytest.approx(1.0)
    # flat images differ in luminance alone, which counts at the coarsest scale
    dark, light = (np.full((176, 176, 3), value, np.uint8) for value in (100, 120))
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ms_ssim(dark, light) == pytest.approx(luminance**0.1333, abs=1e-4)
    # negative structure has no power: 0, not a complex number
    assert ms_ssim(image, 255 - image) == 0.0


def test_ms_ssim_forgives_what_is_fine(make_photo: Callable[..., Image]) -> None:
    image = make_photo(200, 200, seed=2)
    noise = np.random.default_rng(0).integers(-20, 21, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    assert ssim(image, noisy) < ms_ssim(image, noisy) < 1


@pytest.mark.parametrize("shape", [(175, 400), (400, 175), (11, 11)])
def test_ms_ssim_of_images_below_its_window_is_nan(
    make_photo: Callable[..., Image], shape: tuple[int, int]
) -> None:
    image = make_photo(*shape)
    assert math.isnan(ms_ssim(image, image))


def test_ms_ssim_wants_a_pair() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ms_ssim(np.zeros((200, 200, 3), np.uint8), np.zeros((200, 201, 3), np.uint8))
