"""Crops are torchvision's; the resize is tested in test_loader_resizing.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from limla.errors import DataError
from limla.loaders.geometry import (
    check_one_size,
    random_region,
    resized_shape,
    to_planes,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_resized_shape_is_torchvisions(height: int, width: int, shorter: int) -> None:
    expected = (
        (shorter, int(shorter * width / height))
        if height <= width
        else (int(shorter * height / width), shorter)
    )
    assert resized_shape(height, width, shorter) == expected


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
