"""Which output folders `limla codecs compare` takes: its own, whole, of this machine and these versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import limla.comparison.record
from limla.comparison import CompareSettings, compare
from limla.errors import DataError, SettingsError


def _settings(folder: Path, output_dir: Path) -> CompareSettings:
    return CompareSettings(folder, output_dir, codecs=("jpeg",), num_images=2, num_points=4)


@pytest.fixture(scope="module")
def finished(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("finished")
    compare(_settings(photo_folder, folder))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A finished comparison, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_results_among_the_photos_would_be_photos_of_the_next_run(photo_folder: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    before = sorted(photos.rglob("*"))
    for output_dir in (photos / "out", photos, tmp_path):
        with pytest.raises(SettingsError, match="choose a"):
            compare(_settings(photos, output_dir))
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize("name", ["comparison.html", "rates.csv", "comparison.json"])
def test_files_of_others_are_not_overwritten(photo_folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"mine": true}', encoding="utf-8")
    with pytest.raises(SettingsError, match=f"{name}.* limla codecs compare.*choose another output folder"):
        compare(_settings(photo_folder, tmp_path))
    assert [found.name for found in tmp_path.iterdir()] == [name]
    assert path.read_text(encoding="utf-8") == '{"mine": true}'


def test_what_a_killed_run_leaves_is_no_file_of_others(photo_folder: Path, tmp_path: Path) -> None:
    for name in (".compare.lock", "comparison.json.x.limla-tmp"):
        (tmp_path / name).touch()
    assert compare(_settings(photo_folder, tmp_path)).num_images == 2


@pytest.mark.parametrize("changed", ["cpu", "num_cores", "python", "limla", "numpy", "scikit-image"])
def test_another_machine_and_other_versions_want_another_folder(
    photo_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    here = limla.comparison.record.made_with()
    assert here[changed]
    rows = (folder / "rows.parquet").read_bytes()
    (folder / "parts" / "jpeg" / "q100.parquet").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("limla.comparison.record.made_with", lambda: {**here, changed: "another"})
        with pytest.raises(SettingsError, match=f"another machine or .*{changed}: .* there, 'another' here"):
            compare(_settings(photo_folder, folder))
    assert (folder / "rows.parquet").read_bytes() == rows
    assert not (folder / "parts" / "jpeg" / "q100.parquet").exists()
    compare(_settings(photo_folder, folder))


def test_a_part_must_hold_a_row_for_each_photo(photo_folder: Path, folder: Path) -> None:
    part = folder / "parts" / "jpeg" / "q100.parquet"
    table = pq.read_table(part)
    for damaged in (table.slice(0, 1), table.slice(0, 0), table.take([1, 0])):
        pq.write_table(damaged, part)
        with pytest.raises(DataError, match=r"q100\.parquet: not a row for each of the 2 photos.*remove it"):
            compare(_settings(photo_folder, folder))
    shutil.copy(part.with_name("q1.parquet"), part)
    with pytest.raises(DataError, match=r"q100\.parquet"):
        compare(_settings(photo_folder, folder))
    part.unlink()
    compare(_settings(photo_folder, folder))


@pytest.mark.parametrize("qualities", [None, [], "1", [1, "2"], [1, 101], [[1]]])
def test_a_plan_must_hold_qualities(photo_folder: Path, folder: Path, qualities: object) -> None:
    path = folder / "parts" / "jpeg" / "plan.json"
    plan = json.loads(path.read_text(encoding="utf-8"))
    del plan["qualities"]
    path.write_text(
        json.dumps(plan if qualities is None else {**plan, "qualities": qualities}), encoding="utf-8"
    )
    with pytest.raises(
        DataError, match=r"plan\.json: no list of jpeg's qualities; remove .*jpeg and run again"
    ):
        compare(_settings(photo_folder, folder))
    shutil.rmtree(path.parent)
    compare(_settings(photo_folder, folder))


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "limla-comparison-2"}'])
def test_a_damaged_record_is_named(photo_folder: Path, folder: Path, damage: str) -> None:
    (folder / "comparison.json").write_text(damage, encoding="utf-8")
    with pytest.raises(DataError, match=r"comparison\.json: damaged .*choose another output folder"):
        compare(_settings(photo_folder, folder))
