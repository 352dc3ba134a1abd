"""The compiled resize is Pillow's, bit for bit, for any size, crop and mirror; and it comes up anywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from limla.loaders.geometry import Region, resized_shape
from limla.loaders.resizing import center_planes, region_planes
from limla.types import Image, Preprocessing
from tests.conftest import natural_like

BILINEAR = PIL.Image.Resampling.BILINEAR


def noise(height: int, width: int, seed: int = 0) -> Image:
    """Whole range, hard edges: the worst case of any rounding."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def center(image: Image, preprocessing: Preprocessing) -> np.ndarray:
    planes = np.full((3, preprocessing.image_size, preprocessing.image_size), np.nan, np.float32)
    center_planes(image, preprocessing, planes)
    return planes


def region(image: Image, part: Region, height: int, width: int) -> np.ndarray:
    planes = np.full((3, height, width), np.nan, np.float32)
    region_planes(image, part, planes)
    return planes


def resized(picture: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Pillow's resize, rows first: since Pillow 13 it may begin with the columns of tall images."""
    return picture.resize((width, picture.height), BILINEAR).resize((width, height), BILINEAR)


def as_planes(pixels: object) -> np.ndarray:
    """A Pillow image or (H, W, 3) array as value / 255."""
    return np.asarray(pixels).transpose(2, 0, 1) / np.float32(255)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 96), st.integers(0, 30))
@example(253, 284, 224, 32)
@example(245, 70, 64, 9)
@example(1, 1, 224, 32)
@example(1, 400, 5, 0)
@example(400, 1, 5, 1)
@example(2, 2, 1, 0)
@example(64, 64, 64, 0)
def test_the_centre_crop_is_pillows_resize_and_torchvisions_crop(
    height: int, width: int, side: int, margin: int
) -> None:
    image = noise(height, width)
    picture = PIL.Image.fromarray(image)
    preprocessing = Preprocessing(image_size=side, resize_shorter=side + margin)
    planes = center(image, preprocessing)
    new_height, new_width = resized_shape(height, width, side + margin)
    crop = v2.CenterCrop(side)
    assert np.array_equal(planes, as_planes(crop(resized(picture, new_width, new_height))))
    theirs = as_planes(crop(v2.Resize(side + margin)(picture)))
    if height <= 2 * width:
        assert np.array_equal(planes, theirs)
    else:
        assert np.abs(planes - theirs).max() <= 1.001 / 255


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_region_is_pillows_crop_resize_and_mirror(data: st.DataObject) -> None:
    whole_height, whole_width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    height, width = data.draw(st.integers(1, whole_height)), data.draw(st.integers(1, whole_width))
    top, left = data.draw(st.integers(0, whole_height - height)), data.draw(st.integers(0, whole_width - width))
    new_height, new_width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    flip = data.draw(st.booleans())
    image = noise(whole_height, whole_width)
    picture = PIL.Image.fromarray(image).crop((left, top, left + width, top + height))
    picture = resized(picture, new_width, new_height)
    expected = as_planes(picture)[:, :, ::-1] if flip else as_planes(picture)
    assert np.array_equal(
        region(image, Region(top, left, height, width, flip), new_height, new_width), expected
    )


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (1500, 1125), (31, 900), (2, 3000)])
def test_photo_like_images_and_gray(height: int, width: int) -> None:
    preprocessing = Preprocessing()
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    image = natural_like(height, width, 3)
    gray = np.repeat(image[:, :, :1], 3, axis=2)
    for one in (image, gray, np.full_like(image, 255), np.zeros_like(image)):
        expected = as_planes(transform(PIL.Image.fromarray(one)))
        assert np.array_equal(center(one, preprocessing), expected)


@pytest.mark.parametrize("value", [1, 127, 254, 255])
def test_an_enormous_scale_does_not_overflow(value: int) -> None:
    """65000 rounded weights add up to a little more than one: Pillow cuts at 255, and so does this."""
    for shape in ((1, 65000, 3), (65000, 1, 3)):
        image = np.full(shape, value, np.uint8)
        expected = as_planes(resized(PIL.Image.fromarray(image), 1, 1))
        assert np.array_equal(region(image, Region(0, 0, *shape[:2], False), 1, 1), expected)


def test_arrays_of_any_layout_are_taken_as_they_look() -> None:
    image = noise(50, 70)
    preprocessing = Preprocessing(image_size=20)
    expected = center(image, preprocessing)
    frozen = image.copy()
    frozen.flags.writeable = False
    padded = np.zeros((52, 74, 3), np.uint8)
    padded[1:51, 2:72] = image
    for same in (frozen, np.asfortranarray(image), padded[1:51, 2:72], image[:, ::-1].copy()[:, ::-1]):
        assert np.array_equal(center(same, preprocessing), expected)


def test_nothing_beyond_the_image_is_read() -> None:
    """The pixels after the image in the same memory do not matter, whatever they are."""
    preprocessing = Preprocessing(image_size=5, resize_shorter=5)
    memory = np.zeros(7 * 7 * 3 + 64, np.uint8)
    memory[: 7 * 7 * 3] = noise(7, 7).reshape(-1)
    results = []
    for beyond in (0, 255):
        memory[7 * 7 * 3 :] = beyond
        results.append(center(memory[: 7 * 7 * 3].reshape(7, 7, 3), preprocessing))
    assert np.array_equal(*results)


_DIGEST = """
import hashlib, sys
import numpy as np
from limla.loaders.resizing import center_planes
from limla.types import Preprocessing
image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
planes = np.empty((3, 32, 32), np.float32)
center_planes(image, Preprocessing(image_size=32), planes)
print(hashlib.sha256(planes.tobytes()).hexdigest(), "numba" in sys.modules)
"""


def _start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _DIGEST],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The hash of the planes, and whether numba was needed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    digest, needed = out.split()
    return digest, needed


def test_processes_share_compiled_kernels_and_do_without_numba_then(tmp_path: Path) -> None:
    planes = center(noise(60, 90), Preprocessing(image_size=32))
    expected = hashlib.sha256(planes.tobytes()).hexdigest()
    together = [_start(tmp_path), _start(tmp_path)]
    assert {_finish(process)[0] for process in together} == {expected}
    assert _finish(_start(tmp_path)) == (expected, "False")


def test_kernels_are_made_in_memory_where_nothing_can_be_kept(tmp_path: Path) -> None:
    planes = center(noise(60, 90), Preprocessing(image_size=32))
    blocked = tmp_path / "a-file"
    blocked.touch()
    assert _finish(_start(blocked)) == (hashlib.sha256(planes.tobytes()).hexdigest(), "True")
