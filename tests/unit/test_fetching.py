"""Fetching: torchvision's own dataset classes over files laid out as a download leaves them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from limla import fetching
from limla.errors import DataError, UnknownNameError
from tests.conftest import natural_like


def test_shipped_files_are_copied_byte_for_byte_in_the_official_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import Imagenette

    originals: dict[str, bytes] = {}
    for split in ("train", "val"):
        for number, wnid in enumerate(("n01440764", "n03888257")):
            folder = tmp_path / ".photos-download" / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            path = folder / f"{wnid}_{split}.JPEG"
            PillowImage.fromarray(natural_like(20, 30, number)).save(path, "JPEG", quality=77)
            path.rename(path.with_suffix(".jpeg"))
            originals[path.with_suffix(".jpeg").name] = path.with_suffix(".jpeg").read_bytes()
    monkeypatch.setattr(Imagenette, "_download", lambda self: None)

    assert fetching.fetch("Imagenette", tmp_path / "photos") == 4
    files = sorted((tmp_path / "photos").rglob("*.jpeg"))
    assert [path.relative_to(tmp_path / "photos").parts[:2] for path in files] == [
        ("train", "parachute"),
        ("train", "tench"),
        ("val", "parachute"),
        ("val", "tench"),
    ]
    assert {path.name: path.read_bytes() for path in files} == originals

    monkeypatch.setattr(fetching, "write_bytes", lambda path, data: pytest.fail(f"{path} was written again"))
    assert fetching.fetch("imagenette", tmp_path / "photos") == 4


def test_arrays_become_png_and_splits_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / ".c-download" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 3072), dtype=np.uint8)
    for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 8]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c {i}" for i in range(10)]}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)

    assert fetching.fetch("cifar10", tmp_path / "c", merge=True) == 12
    files = sorted((tmp_path / "c").rglob("*.png"))
    assert {path.parent.name for path in files} == {"c-3", "c-8"}
    assert files[0].name == "test-000000.png"
    stored = np.asarray(PillowImage.open(files[0]))
    assert np.array_equal(stored, pixels[0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_without_a_network_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", refuse)
    with pytest.raises(DataError, match="needs a network"):
        fetching.fetch("eurosat", tmp_path / "e")


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="imagenette, flowers102"):
        fetching.fetch("mnist3d", tmp_path / "m")
