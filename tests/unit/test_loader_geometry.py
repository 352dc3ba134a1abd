"""Crops and resizes are torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from limla.errors import DataError
from limla.loaders.geometry import (
    Region,
    center_window,
    check_one_size,
    random_region,
    region_window,
    resized_shape,
    to_planes,
)
from limla.types import Preprocessing


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 96), st.integers(0, 30))
# a crop that ends where the image does, at another scale: torch would take it for "no resize"
@example(253, 284, 224, 32)
@example(245, 70, 64, 9)
@example(240, 240, 224, 32)
def test_center_window_is_torchvisions(height: int, width: int, side: int, margin: int) -> None:
    image = noise(height, width)
    preprocessing = Preprocessing(image_size=side, resize_shorter=side + margin)
    transform = v2.Compose([v2.Resize(side + margin, antialias=True), v2.CenterCrop(side)])
    expected = transform(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.array_equal(center_window(image, preprocessing), expected)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_resized_shape_is_torchvisions(height: int, width: int, shorter: int) -> None:
    expected = (
        (shorter, int(shorter * width / height))
        if height <= width
        else (int(shorter * height / width), shorter)
    )
    assert resized_shape(height, width, shorter) == expected


def test_region_window_is_torchvisions_resized_crop() -> None:
    image = noise(90, 130)
    for flip in (False, True):
        region = Region(top=11, left=20, height=50, width=77, flip=flip)
        expected = functional.resized_crop(
            torch.from_numpy(image).permute(2, 0, 1), 11, 20, 50, 77, [32, 32], antialias=True
        )
        expected = expected.flip(-1) if flip else expected
        assert np.array_equal(region_window(image, region, (32, 32)), expected.permute(1, 2, 0).numpy())


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 50))
def test_random_regions_lie_inside(height: int, width: int, index: int) -> None:
    region = random_region(height, width, 0, 1, index)
    assert 0 <= region.top <= region.top + region.height <= height
    assert 0 <= region.left <= region.left + region.width <= width
    assert region.height > 0 < region.width
    assert region == random_region(height, width, 0, 1, index)


def test_random_regions_have_torchvisions_distribution() -> None:
    ours = [random_region(300, 400, 7, 0, index) for index in range(2000)]
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    theirs = [v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8), [image]) for _ in range(2000)]
    for field in ("top", "left", "height", "width"):
        a = np.array([getattr(region, field) for region in ours], dtype=float)
        b = np.array([params[field] for params in theirs], dtype=float)
        # five standard errors of a difference of means
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / 2000)
    assert 0.45 < np.mean([region.flip for region in ours]) < 0.55


def test_planes_are_the_values_over_255() -> None:
    image = noise(9, 7)
    planes = np.empty((3, 9, 7), dtype=np.float32)
    to_planes(image, planes)
    assert torch.equal(torch.from_numpy(planes), torch.from_numpy(image).permute(2, 0, 1).float() / 255)


def test_one_size_per_batch() -> None:
    check_one_size([("a", 3, 4), ("b", 3, 4)])
    with pytest.raises(DataError, match="'a' is 4×3, 'c' is 3×4"):
        check_one_size([("a", 3, 4), ("b", 3, 4), ("c", 4, 3)])
