"""`limla bench` on a handful of images; never its speed, but that all contenders did the same work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from limla.benchmarking import STAGES, BenchSettings, Comparison, bench, comparisons
from limla.benchmarking.data import generated_photos, photos_of_folder
from limla.benchmarking.harness import ContenderRow, RatioRow
from limla.cli.bench import _table
from limla.cli.bench import bench as bench_command
from limla.errors import DataError, SettingsError
from tests.toy import make_toy
from tests.unit.compared import compared_here


def test_limla_bench_prints_a_table_and_writes_json(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    arguments = ["--photos", str(photo_folder), "--images", "4", "--stage", "reencode", "--rounds", "1"]
    done = CliRunner().invoke(bench_command, [*arguments, "--output", str(output)])
    assert done.exit_code == 0, done.output
    found = json.loads(output.read_text())["reencode"]
    assert found["machine"]["num_cores"] >= 1
    assert found["machine"]["versions"]["limla"]
    assert found["settings"]["num_images"] == 4
    assert [row["num_images"] for row in found["passes"]] == [4, 4, 4]
    assert "in-memory limit" in done.output


def test_every_stage_of_limla_bench_does_equal_work(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "compare", compared_here)
    settings = BenchSettings(
        photos=photo_folder,
        num_images=4,
        num_attacked=2,
        rounds=1,
        model="compact",
        image_size=36,
        batch_size=3,
    )
    found = bench(settings)
    assert tuple(found) == STAGES
    assert {row.num_images for row in found["load"].passes} == {4}
    assert set(found["load"].agreement["differences"]) == {"limla dali", "limla webdataset"}
    assert [row.part for row in found["evaluate"].passes] == ["clean", "fgsm", "pgd"] * 2
    (end_to_end,) = found["end-to-end"].passes
    assert 0 < end_to_end.facts["model"] < end_to_end.seconds
    head, *_, last = _table("end-to-end", found["end-to-end"], 1)
    assert "waiting for the loader" in last
    assert "ratio" not in head


def test_a_table_shows_only_what_says_something() -> None:
    def row(name: str, part: str, first_pass: float | None) -> ContenderRow:
        return ContenderRow(name, part, "", 8, 20.0, 19.0, 21.0, first_pass, 1.5, 0.25, None, None)

    rows = tuple(
        row(name, part, 10.0 if part == "clean" else None) for name in "ab" for part in ("clean", "pgd")
    )
    ratios = tuple(RatioRow("b", part, "a", 2.0, 1.8, 2.2, (1.8, 2.2)) for part in ("clean", "pgd"))
    compared = Comparison(rows, ratios, (), {}, {})
    shown = _table("evaluate", compared, 2)
    assert shown[0].split("  ")[-1] == "range"
    assert "first batch s" not in shown[0]  # of the first attack, whatever the line is of
    assert "peak MB" not in shown[0]
    assert shown[1].split() == ["a,", "clean", "20.0", "10.0", "1.50", "–", "–"]
    assert shown[4].split() == ["b,", "pgd", "20.0", "–", "1.50", "2.00", "1.80–2.20"]
    assert shown[5] == (
        "ratio: images/s over those of a; mean of 2 rounds and their range: more (--rounds) make it surer"
    )
    assert "; median of 3 rounds and" in _table("evaluate", compared, 3)[-1]
    alone = Comparison((row("a", "", 20.0),), (), (), {}, {})
    assert _table("end-to-end", alone, 3)[0].split() == ["images/s", "CPU", "ms/image"]
    assert "first batch s" in _table("load", alone, 3)[0]


def test_packed_shards_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_toy(tmp_path / "toy")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "toy").rglob("*"))
    monkeypatch.setattr(comparisons, "compare", compared_here)
    found = bench(BenchSettings(stages=("reencode",), data_dir=tmp_path / "toy", num_images=60, rounds=1))
    assert {row.num_images for row in found["reencode"].passes} == {60}  # 56 images, the first ones twice
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "toy").rglob("*")) == before


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--stage", "loading"], "unknown stage 'loading'"),
        (["--photos", str(tmp_path), "--data-dir", str(tmp_path)], "name one of them"),
        (["--photos", str(tmp_path)], "no JPEG"),
        (["--photos", str(tmp_path), "--min-side", "500"], "no JPEG with a side of at least 500 pixels"),
        (["--min-side", "500"], "min side chooses among the files of a folder"),
        (["--data-dir", str(tmp_path)], "no such shard folder"),
        (["--output", str(tmp_path / "no" / "x.json")], "no such folder"),
    ):
        done = CliRunner().invoke(bench_command, arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert message in done.output
        assert len(done.output.strip().splitlines()) == 1, done.output
    done = CliRunner().invoke(bench_command, ["--images", "0"])
    assert done.exit_code == 2
    assert "'--images': 0 is not in the range x>=1" in done.output


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="rounds is 0"):
        BenchSettings(rounds=0)
    with pytest.raises(SettingsError, match="num images is 0"):
        BenchSettings(num_images=0)


def test_generated_photos_are_equal_in_every_run_and_photos_are_chosen_by_side(photo_folder: Path) -> None:
    assert generated_photos(2) == generated_photos(2)
    assert {max(photo.height, photo.width) for photo in generated_photos(3)} == {500}
    assert len(photos_of_folder(photo_folder, 5)) == 5
    with pytest.raises(DataError, match="at least 4000 pixels"):
        photos_of_folder(photo_folder, 5, 4000)
