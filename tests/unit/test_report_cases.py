"""The report on less than everything, on several datasets, seeds and versions, and on mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from limla.analysis.subjects import eps_text
from limla.cli import limla
from limla.errors import DataError, LimlaError
from limla.files import write_json
from limla.reporting import report
from limla.results import Condition, EncodingRow, encoding_table, write_predictions, write_table
from tests.unit.reported import (
    NONE,
    NUM_IMAGES,
    PGD,
    condition,
    plots_of,
    read_csv,
    read_page,
    rows_with,
    text_of,
    write_data,
    write_results,
)


def test_hostile_model_and_attack_names(tmp_path: Path) -> None:
    hostile = condition(None, ("<b>$x$", "linf", 0.1, "not json"), model="<img src=x onerror=alert(1)>")
    write_predictions(tmp_path, hostile, rows_with(30))
    reader = read_page(report(tmp_path, None, tmp_path / "r.html"))
    assert not {"img", "b"} & set(reader.tags)
    assert reader.tags.count("script") == 2 + len(plots_of(tmp_path / "r.html"))
    assert "onerror=alert(1)" in "".join(reader.text)
    drawn = plots_of(tmp_path / "r.html")["s1-quality-0"]["data"]
    # plotly reads tags and entities in its texts
    assert {trace["name"] for trace in drawn if "name" in trace} == {"&lt;b&gt;$x$, ε = 0.1"}


@pytest.mark.parametrize(
    ("num_right", "macro"), [(60, "100.0 [–] 100.0 [–] 100.0 [–]"), (58, "[–]"), (57, None)]
)
def test_a_macro_score_without_an_interval_says_why(tmp_path: Path, num_right: int, macro: str | None) -> None:
    write_predictions(tmp_path, condition(None), rows_with(num_right))
    text = text_of(report(tmp_path, None, tmp_path / "r.html"))
    reason = "[–]: fewer than 3 images are right, or wrong, which is too few"
    assert reason in text
    shown = text.replace(reason, "")
    assert macro in shown if macro else "[–]" not in shown
    ends = [row["ci_low"] for row in read_csv(tmp_path / "metrics.csv") if row["metric"].endswith("_macro")]
    assert [bool(end) for end in ends] == [macro is None] * 3


def test_identical_images_leave_the_mean_and_are_counted(tmp_path: Path) -> None:
    data, results = write_data(tmp_path / "flowers"), write_results(tmp_path / "results")
    rows = [
        EncodingRow(f"test/{n}", "test", "jpeg", 50, 80, 100, 1000, 1.0, math.inf if n < 5 else 30.0, 1.0)
        for n in range(NUM_IMAGES)
    ]
    write_table(data / "jpeg-q50" / "encoding.parquet", encoding_table(rows))
    text = text_of(report(results, data, tmp_path / "report.html"))
    assert "60 (5 identical) 30.00 30.00" in text
    assert "inf" not in (tmp_path / "encoding.csv").read_text(encoding="utf-8")


def test_distortion_is_a_mean_over_the_measured_images_of_all_splits(tmp_path: Path) -> None:
    """The sample is drawn over all splits; the rate stays that of the evaluated one."""
    data, results = write_data(tmp_path / "flowers"), write_results(tmp_path / "results")
    rows = [
        EncodingRow(f"test/{n}", "test", "jpeg", 10, 80, 100, 500, 0.5, *((20.0, 0.5) if n < 6 else ()))
        for n in range(NUM_IMAGES)
    ]
    rows += [EncodingRow(f"train/{n}", "train", "jpeg", 10, 80, 100, 9000, 9.0, 30.0, 1.0) for n in range(18)]
    write_table(data / "jpeg-q10" / "encoding.parquet", encoding_table(rows))
    text = text_of(report(results, data, tmp_path / "report.html"))
    row = next(row for row in read_csv(tmp_path / "encoding.csv") if row["quality"] == "10")
    assert (row["num_images"], float(row["mean_rate_bpp"]), float(row["mean_num_bytes"])) == ("60", 0.5, 500.0)
    assert (row["num_measured"], float(row["mean_psnr_db"])) == ("24", 27.5)
    assert float(row["mean_ssim"]) == pytest.approx(0.875)
    assert "over the measured images of all splits, whose number n is in the column" in text
    assert "(measured images of all splits, n = 20 to 24)" in text


def test_the_keys_of_the_strip_are_those_of_the_index(tmp_path: Path) -> None:
    """File names say nothing: the same name is another image in the second cell, and "__" stays in a key."""
    for quality, files in ((None, {"0.png": "a/b__c", "1.png": "a__b/c"}), (10, {"0.png": "a__b/c"})):
        cell = condition(quality)
        write_predictions(tmp_path, cell, rows_with(30))
        folder = tmp_path / "samples" / cell.cell_id
        folder.mkdir(parents=True)
        for file in files:
            PillowImage.new("RGB", (8, 8)).save(folder / file)
        said = {"label": 0, "prediction": 1, "confidence": 0.5}
        write_json(
            folder / "index.json", {"pictures": [{"file": f, "key": k, **said} for f, k in files.items()]}
        )
    reader = read_page(report(tmp_path, None, tmp_path / "report.html"))
    alts = [value for name, value in reader.attributes if name == "alt"]
    assert alts == ["a__b/c: original", "a__b/c: q10", "a/b__c: original"]
    write_json(folder / "index.json", {"pictures": [{"file": "../0.png", "key": "k", **said}]})
    with pytest.raises(
        DataError, match=r"index\.json: not an index of pictures \('\.\./0\.png' is no file name"
    ):
        report(tmp_path, None, tmp_path / "report.html")


def test_without_data_dir_the_page_says_what_is_missing(tmp_path: Path) -> None:
    text = text_of(report(write_results(tmp_path / "results"), None, tmp_path / "report.html"))
    assert "Not in this report" in text
    assert "made without the dataset's shard folders" in text
    assert "no figure against bits per pixel" in text
    assert "class 0" in text
    assert "left no sample images" in text
    assert not (tmp_path / "encoding.csv").exists()


def partial_results() -> Iterator[tuple[str, list[Condition], str]]:
    yield "clean only", [condition(None), condition(10)], "No attack was evaluated"
    yield "one quality", [condition(10)], "One test quality only"
    yield "source only", [condition(None), condition(None, PGD)], "One test quality only"
    yield "no source", [condition(10), condition(50)], "The originals were not evaluated"
    yield "attack only", [condition(None, PGD), condition(10, PGD)], "No attack success rate for 2"
    yield "clean for one", [condition(None), condition(None, PGD), condition(10, PGD)], "success rate for 1"


@pytest.mark.parametrize(("cells", "note"), [(cells, note) for _, cells, note in partial_results()])
@pytest.mark.parametrize("with_data", [True, False])
def test_partial_results(tmp_path: Path, cells: list[Condition], note: str, with_data: bool) -> None:
    for cell in cells:
        write_predictions(tmp_path / "results", cell, rows_with(30))
    data = write_data(tmp_path / "flowers") if with_data else None
    text = text_of(report(tmp_path / "results", data, tmp_path / "report.html"))
    assert note in text
    assert "50.0% [37.7, 62.3]" in text


def test_seeds_are_averaged_and_said(tmp_path: Path) -> None:
    for seed, num_correct in enumerate((30, 36, 42)):
        cell = condition(None, checkpoint_id=f"run{seed}", seed=seed)
        write_predictions(tmp_path, cell, rows_with(num_correct))
    text = text_of(report(tmp_path, None, tmp_path / "report.html"))
    # the mean of 50, 60 and 70%, from the low end of 30/60 to the high end of 42/60
    assert "60.0% [37.7, 80.1] of the 60 test images (mean over 3 seeds)" in text
    (row,) = read_csv(tmp_path / "matrix.csv")
    assert (float(row["value"]), row["num_seeds"]) == (pytest.approx(0.6), "3")
    assert len(read_csv(tmp_path / "metrics.csv")) == 15


def test_checkpoints_of_unknown_or_equal_seed_are_not_averaged(tmp_path: Path) -> None:
    for number, num_correct in enumerate((30, 42)):
        cell = condition(
            None, checkpoint_id=f"run{number}", seed=-1, train_codec="unknown", train_quality="unknown"
        )
        write_predictions(tmp_path, cell, rows_with(num_correct))
    report(tmp_path, None, tmp_path / "report.html")
    rows = read_csv(tmp_path / "matrix.csv")
    assert sorted(float(row["value"]) for row in rows) == [0.5, 0.7]
    assert {row["subject"] for row in rows} == {
        "MobileNetV2 · unknown training · run0",
        "MobileNetV2 · unknown training · run1",
    }


def test_each_dataset_and_split_has_its_own_section(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    write_predictions(results, condition(None, split="val"), rows_with(45))
    write_predictions(results, condition(None, dataset="birds"), rows_with(15))
    data = [write_data(tmp_path / "flowers"), write_data(tmp_path / "birds", "birds", ("a", "b", "c"))]
    reader = read_page(report(results, data, tmp_path / "report.html"))
    text = " ".join(reader.text)
    for title in ("birds, test split", "flowers, test split", "flowers, val split"):
        assert title in text
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {row["dataset"] for row in read_csv(tmp_path / "matrix.csv")} == {"birds", "flowers"}


def test_eps_lists_have_a_heat_map_each(tmp_path: Path) -> None:
    for eps in (0.0, 2 / 255, 8 / 255, 0.1):
        attack = PGD if eps else NONE
        write_predictions(tmp_path, condition(None, (*attack[:2], eps, attack[3])), rows_with(30))
    text = text_of(report(tmp_path, None, tmp_path / "report.html"))
    for label in ("PGD-10, ε = 2/255", "PGD-10, ε = 8/255", "PGD-10, ε = 0.1"):
        assert f"Robust accuracy under {label}" in text


def test_eps_reads_as_it_was_typed() -> None:
    assert [eps_text(eps) for eps in (8 / 255, 0.5 / 255, 0.1, 0.03)] == ["8/255", "0.5/255", "0.1", "0.03"]


def test_two_versions_of_a_dataset_do_not_mix(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", [NONE])
    write_predictions(results, condition(10, data_id="an earlier one"), rows_with(60))
    with pytest.raises(DataError, match="2 different versions of dataset 'flowers', test, jpeg q10"):
        report(results, None, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    text = text_of(report(results, write_data(tmp_path / "flowers"), tmp_path / "report.html"))
    assert "1 cell of an earlier version of the data left out" in text
    assert "80.0% [68.2, 88.2]" in text


def test_class_drops_are_taken_against_the_version_reported(tmp_path: Path) -> None:
    """An earlier version of the originals, evaluated too, is no reference and has no line."""
    results = write_results(tmp_path / "results", [NONE])
    for number in range(4):  # whatever the order of the cell ids, one of these would come first
        earlier = condition(None, data_id=f"earlier {number}")
        write_predictions(results, earlier, rows_with(0))
    report(results, write_data(tmp_path / "flowers"), tmp_path / "report.html")
    classes = read_csv(tmp_path / "classes.csv")
    assert len(classes) == 4 * 3
    drops = {row["test_quality"]: float(row["drop"]) for row in classes if row["label"] == "0"}
    assert drops == {"": 0.0, "50": 0.0, "10": pytest.approx(0.1), "1": pytest.approx(0.55)}


def test_errors_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    runner = CliRunner()
    output = tmp_path / "report.html"
    command = ["report", str(tmp_path / "results"), "--output", str(output)]
    found = runner.invoke(limla, command)
    assert (found.exit_code, len(found.stderr.splitlines())) == (2, 1)
    assert "no prediction files; run 'limla evaluate'" in found.stderr
    path = write_predictions(tmp_path / "results", condition(None), rows_with(30))
    missing = runner.invoke(limla, [*command, "--data-dir", str(tmp_path / "nowhere")])
    assert (missing.exit_code, "no shard folders there" in missing.stderr) == (2, True)
    folder = runner.invoke(limla, [*command[:-1], str(tmp_path)])
    assert (folder.exit_code, "is a folder" in folder.stderr) == (2, True)
    path.write_bytes(path.read_bytes()[:-20])
    damaged = runner.invoke(limla, command)
    assert (damaged.exit_code, len(damaged.stderr.splitlines())) == (2, 1)
    assert ".parquet: damaged; remove it" in damaged.stderr
    assert not output.exists()


def test_the_command_names_the_page_and_replaces_an_old_one(tmp_path: Path) -> None:
    write_predictions(tmp_path / "results", condition(None), rows_with(30))
    output = tmp_path / "report.html"
    output.write_text("old")
    found = CliRunner().invoke(limla, ["report", str(tmp_path / "results"), "--output", str(output)])
    assert (found.exit_code, found.stdout.strip()) == (0, str(output))
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.glob("*limla-tmp*")] == []


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    cell = condition(None)
    write_predictions(tmp_path, cell, rows_with(30))
    picture = tmp_path / "samples" / cell.cell_id / "test__0.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"not a picture")
    with pytest.raises(LimlaError, match=r"test__0\.png: not a readable PNG"):
        report(tmp_path, None, tmp_path / "report.html")
