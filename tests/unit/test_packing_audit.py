"""The compression history of the sources: reported per class, and a warning when it tells the label."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from limla.packing import PackResult, PackSettings, pack
from tests.conftest import natural_like


def photos(folder: Path, count: int, seed: int, suffix: str = "jpg", **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = PIL.Image.fromarray(natural_like(16, 16, seed=1000 * seed + number))
        picture.save(folder / f"{options.get('quality', '')}-{number}.{suffix}", **options)


def audit(result: PackResult) -> dict[str, Any]:
    return result.manifest.summary["audit"]


def test_equal_histories_are_no_reason_to_warn(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for label, name in enumerate("abc"):
        photos(raw / name, 20, 2 * label, quality=70)
        photos(raw / name, 20, 2 * label + 1, quality=95)
    result = pack(raw, tmp_path / "out", PackSettings())
    assert result.warnings == ()
    found = audit(result)
    assert found["classes"]["b"]["jpeg_quality"] == {"70": 20, "95": 20}
    assert found["all"]["jpeg_quality"] == {"70": 60, "95": 60}
    assert found["all"]["jpeg_subsampling"] == {"420": 120}
    assert found["association_with_class"]["JPEG quality"] == {"cramers_v": 0.0, "p_value": 1.0}
    assert found["tables_not_standard"] == 0


@pytest.mark.parametrize(
    ("first", "second", "name", "shown"),
    [
        ({"quality": 90}, {"quality": 30}, "JPEG quality", "a median 90, b median 30"),
        ({"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}, "chroma subsampling", "a 444 100%, b 420 100%"),
        ({}, {"suffix": "png"}, "file format", "a jpeg 100%, b png 100%"),
    ],
)
def test_a_history_that_tells_the_label(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], name: str, shown: str
) -> None:
    photos(tmp_path / "raw" / "a", 12, 1, **first)
    photos(tmp_path / "raw" / "b", 12, 2, **second)
    result = pack(tmp_path / "raw", tmp_path / "out", PackSettings())
    (warning,) = result.warnings
    assert warning.startswith(f"{name} goes with the class")
    assert shown in warning
    values = audit(result)["association_with_class"][name]
    assert values["cramers_v"] > 0.9
    assert values["p_value"] < 0.001


def test_few_images_of_many_qualities_prove_nothing(tmp_path: Path) -> None:
    for label, name in enumerate("ab"):
        for number in range(8):
            photos(tmp_path / "raw" / name, 1, 100 * label + number, quality=40 + 7 * number - 3 * label)
    assert pack(tmp_path / "raw", tmp_path / "out", PackSettings()).warnings == ()


def test_copies_across_splits_and_classes(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for split in ("train", "val", "test"):
        for label, name in enumerate("ab"):
            photos(raw / split / name, 3, hash_free_seed(split, label), quality=90)
    shutil.copy(raw / "train" / "a" / "90-0.jpg", raw / "test" / "a" / "copy.jpg")
    shutil.copy(raw / "train" / "a" / "90-1.jpg", raw / "train" / "b" / "copy.jpg")
    result = pack(raw, tmp_path / "out", PackSettings())
    assert audit(result)["duplicates"] == {"images": 2, "across_splits": 1, "across_classes": 1}
    assert len(result.warnings) == 2
    assert "another split" in result.warnings[0]
    assert "another class" in result.warnings[1]


def hash_free_seed(split: str, label: int) -> int:
    return 10 * ("train", "val", "test").index(split) + label
