"""Fixtures that several suites share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from limla.types import Image

FLOWERS = Path(os.environ.get("LIMLA_FLOWERS", Path(__file__).parents[2] / "shared" / "data" / "flowers"))


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands under test: what a shell starts in the background ignores it, with its children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def natural_like(height: int, width: int, seed: int = 0) -> Image:
    """An (H, W, 3) uint8 image whose spectrum falls like 1/f, as photographs' do, with correlated colours."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    planes = []
    for strength in (1.0, 0.4, 0.4):
        noise = np.fft.rfft2(generator.standard_normal((height, width)))
        plane = np.fft.irfft2(noise / frequency, s=(height, width))
        planes.append(strength * plane / (plane.std() + 1e-9))
    luma, blue, red = planes
    image = np.stack([luma + red, luma - 0.3 * red - 0.3 * blue, luma + blue], axis=-1)
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_photo() -> Callable[[int, int, int], Image]:
    """The function `natural_like(height, width, seed)`."""
    return natural_like


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `cat/` and `dog/` of 12 small JPEGs each, of differing sizes, one gray. Read only."""
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for number in range(12):
            image = natural_like(60 + 3 * number, 80 + 5 * label + number, seed=100 * label + number)
            picture = PillowImage.fromarray(image)
            if number == 0:
                picture = picture.convert("L")
            picture.save(folder / name / f"photo{number:02d}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def flowers() -> Path:
    """The folder of real photos; tests that need it skip where it is absent."""
    if not FLOWERS.is_dir():
        pytest.skip(f"the real photos are not there ({FLOWERS}; set LIMLA_FLOWERS)")
    return FLOWERS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests, with the reason, where no GPU is."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
