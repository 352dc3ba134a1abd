"""The calibration dataset: equal seeds, equal files, and a signal that JPEG removes finest band first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limla.calibration import BANDS, ORIENTATIONS, CalibrationSettings, class_names, draw, make_calibration
from limla.codecs.jpeg import JpegCodec
from limla.errors import SettingsError
from limla.types import Image


def _orientation_energy(image: Image, period: float, orientation: str) -> float:
    """Spectral energy of the luma near the band's frequency along one axis."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    window = np.hanning(luma.shape[0])
    power = np.abs(np.fft.fft2((luma - luma.mean()) * window[:, None] * window[None, :])) ** 2
    frequency = np.fft.fftfreq(luma.shape[0])
    rows, columns = np.meshgrid(frequency, frequency, indexing="ij")
    across, along = (rows, columns) if orientation == "horizontal" else (columns, rows)
    slack = 0.5 / luma.shape[0]
    near = (abs(abs(across) - 1 / period) < 0.14 / period + slack) & (abs(along) < 0.12 / period + 2 * slack)
    return float(power[near].sum())


def _share_readable(band: str, quality: int | None, num_images: int = 40) -> float:
    """How often an ideal detector, which knows the band, reads the orientation right after the codec."""
    codec = JpegCodec()
    hits = 0
    for number in range(num_images):
        orientation = ORIENTATIONS[number % 2]
        image = draw(band, orientation, 64, np.random.default_rng([7, number]))
        if quality is not None:
            image = codec.decode(codec.encode(image, quality))
        energies = [_orientation_energy(image, BANDS[band], name) for name in ORIENTATIONS]
        hits += ORIENTATIONS[int(np.argmax(energies))] == orientation
    return hits / num_images


@pytest.mark.parametrize(
    ("quality", "readable", "lost"),
    [
        (None, ("coarse", "medium", "fine", "finest"), ()),
        (50, ("coarse", "medium", "fine", "finest"), ()),
        (5, ("coarse", "medium", "fine"), ("finest",)),
        (1, ("coarse",), ("medium", "fine", "finest")),
    ],
)
def test_low_quality_removes_the_finest_bands_first(
    quality: int | None, readable: tuple[str, ...], lost: tuple[str, ...]
) -> None:
    for band in readable:
        assert _share_readable(band, quality) >= 0.85, band
    for band in lost:
        assert _share_readable(band, quality) <= 0.75, band


def test_equal_seeds_give_equal_files_and_a_second_run_keeps_them(tmp_path: Path) -> None:
    settings = CalibrationSettings(num_per_class=2, image_size=32, seed=3)
    for name in ("a", "b"):
        assert make_calibration(tmp_path / name, settings) == 16
    files = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.png")}
    assert len(files) == 16
    assert {path.parent.name for path in files} == set(class_names())
    assert all((tmp_path / "b" / path).read_bytes() == data for path, data in files.items())
    damaged = next(iter((tmp_path / "a").rglob("*.png")))
    damaged.write_bytes(b"half a file")
    make_calibration(tmp_path / "a", settings)
    assert damaged.read_bytes() == files[damaged.relative_to(tmp_path / "a")]


def test_other_seeds_and_classes_differ() -> None:
    first = draw("fine", "vertical", 64, np.random.default_rng(1))
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, draw("fine", "vertical", 64, np.random.default_rng(2)))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    with pytest.raises(SettingsError, match="holiday"):
        make_calibration(tmp_path, CalibrationSettings(num_per_class=1))


@pytest.mark.parametrize("settings", [{"num_per_class": 0}, {"image_size": 31}, {"image_size": 1025}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="out of range"):
        CalibrationSettings(**settings)
