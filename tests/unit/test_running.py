"""`limla run` refuses what cannot work before it writes anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from limla.errors import DataError, LimlaError
from limla.packing import PackSettings, pack
from limla.running import dataset_stages, run
from limla.study import study_from
from tests.conftest import natural_like

_SMALL: dict[str, Any] = {"qualities": [1, 5], "models": ["compact"], "image_size": 32, "device": "cpu"}


def study_of(photos: Path, folder: Path, **change: Any) -> Any:
    paths = {"raw": photos, "data_dir": folder / "shards", "output_dir": folder / "out"}
    return study_from({**_SMALL, **paths, **change}, "s.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["NoSuch"]}, "unknown model 'NoSuch'"),
        ({"models": ["no_such_module:build"]}, "there is no module 'no_such_module'"),
        ({"models": ["math:pi"]}, "'math:pi' is a float, not a function"),
        ({"models": ["compact", "Compact"]}, "models names an entry twice (Compact)"),
        ({"models": ["compact", "compact"]}, "models names an entry twice"),
        ({"models": ["VGG11"], "image_size": 8}, "cannot take images of 8x8 pixels"),
        ({"seeds": [0, 0]}, "seeds names an entry twice"),
        ({"seeds": [-1]}, "seed -1 is out of range"),
        ({"qualities": [5, 5]}, "qualities names an entry twice"),
        ({"train": [[1, 5], "source", [5, 1]]}, "train names an entry twice"),
        ({"train": [[1, 1]]}, "a quality is named twice: 1+1"),
        ({"subsampling": "999"}, "999"),
        ({"measure": -5}, "measure -5: choose"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"master": "local[2]"}, "engine 'local' takes no master (local[2])"),
        ({"split": {"train": 0.9, "val": 0.1, "test": 0.1}}, "make 1.1: choose fractions that sum to 1"),
        (
            {"split": {"train": 0.9, "val": 0.0, "test": 0.1}},
            "no images for the split 'val', which training needs",
        ),
        ({"split": {"train": 0.9, "val": 0.1, "test": 0.0}}, "the split 'test', which evaluation needs"),
        ({"split": {"val_from_train": 0.1}}, "plain class folders"),
        ({"training": {"epochs": 0}}, "epochs 0 is out of range"),
        ({"training": {"batch_size": 0}}, "batch size 0 is out of range"),
        ({"training": {"weights": "/nonexistent"}}, "/nonexistent: no such file"),
        ({"training": {"weights": "imagenet"}}, "model 'compact' has no ImageNet weights"),
        ({"evaluation": {"batch_size": 0}}, "batch size 0 is out of range"),
        ({"evaluation": {"steps": 0}}, "0 steps of attack 'pgd'"),
        ({"evaluation": {"alpha": -1}}, "alpha -1 of attack 'pgd'"),
        ({"evaluation": {"eps": ["300/255"]}}, "eps 1.17647 of attack 'fgsm' is out of range"),
        ({"evaluation": {"eps": []}}, "attack 'fgsm' needs eps"),
        ({"raw": Path("absent")}, "absent: no such folder"),
        ({"raw": None}, "name the folder of photos as 'raw'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    photo_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(LimlaError) as caught:
        run(study_of(photo_folder, tmp_path, **change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_every_model_seed_and_training_condition_is_one_training(tmp_path: Path) -> None:
    (stages,) = dataset_stages(study_of(tmp_path, tmp_path, seeds=[3, 4], train=["source", [1, 5]]))
    assert [(settings.seed, settings.train_quality) for settings in stages.train] == [
        (seed, quality) for seed in (3, 4) for quality in ("source", "1+5")
    ]


def split_photos(photo_folder: Path, raw: Path, *splits: str) -> Path:
    for split in splits:
        shutil.copytree(photo_folder, raw / split)
    return raw


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "test"), "add a val/ folder, or set val_from_train = 0.1 in the study's [split], or merge"),
        (("train", "val"), 'add a test/ folder, or set split = "val" in the study\'s [evaluation], or merge'),
        (("val", "test"), "'train', which training needs: add a train/ folder, or merge"),
    ],
)
def test_a_missing_split_folder_is_refused_with_a_remedy(
    photo_folder: Path, tmp_path: Path, splits: tuple[str, ...], message: str
) -> None:
    raw = split_photos(photo_folder, tmp_path / "raw", *splits)
    with pytest.raises(DataError) as caught:
        run(study_of(raw, tmp_path))
    assert message in str(caught.value)
    assert not (tmp_path / "shards").exists()
    packed = tmp_path / "packed"
    pack(raw, packed, PackSettings())
    with pytest.raises(DataError) as caught:
        run(study_of(raw, tmp_path, raw=None, data_dir=packed))
    assert message in str(caught.value)
    assert f"pack the photos again (remove {packed} first)" in str(caught.value)


def test_a_split_of_undecodable_photos_is_refused_after_packing(photo_folder: Path, tmp_path: Path) -> None:
    raw = split_photos(photo_folder, tmp_path / "raw", "train", "test")
    (raw / "val" / "cat").mkdir(parents=True)
    (raw / "val" / "cat" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no images for the split 'val'"):
        run(study_of(raw, tmp_path))
    assert [path.name for path in (tmp_path / "shards").iterdir() if path.is_dir()] == ["source"]


def test_the_remedy_for_photos_without_val_works(tmp_path: Path) -> None:
    import PIL.Image

    for split, count in (("train", 4), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                path = tmp_path / "raw" / split / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(natural_like(32, 32, seed=10 * label + number)).save(path)
    study = study_of(
        tmp_path / "raw",
        tmp_path,
        qualities=[5],
        measure="none",
        train=[5],
        test=[5],
        loader="cpu",
        split={"val_from_train": 0.25},
        training={"epochs": 1, "batch_size": 4},
        evaluation={"attacks": ["none"]},
    )
    result = run(study)
    assert result.report.is_file()
    assert len(result.checkpoints) == 1
    assert result.checkpoints[0].is_file()
