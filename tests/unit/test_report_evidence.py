"""What the page shows of the paired evidence: defences, simulated rows, tables beside it, flips, methods."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.manifest import read_manifest
from limla.registry import CODECS
from limla.reporting import report
from limla.reporting.methods import _CODECS, _codec_text
from limla.reporting.references import bibtex
from limla.results import PredictionRow, write_predictions
from tests.unit.reported import (
    NONE,
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
from tests.unit.trials import Cell, attacked, cell, defended, first
from tests.variants import member, write_variant

ATTACK = attacked("pgd", steps=10)


def write_cells(folder: Path, cells: Iterable[Cell]) -> Path:
    """The cells as a results folder."""
    for made, table in cells:
        write_predictions(folder, made, [PredictionRow(**row) for row in table.to_pylist()])
    return folder


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Defended, attacked and simulated cells, and their report without shards. Read only."""
    folder = tmp_path_factory.mktemp("studied")
    cells = [
        cell(first(150)),
        cell(first(120), quality=10),
        cell(first(20), ATTACK),
        cell(first(20), ATTACK, quality=10),
        cell(first(140), defended({}, "50", "")),
        cell(first(100), defended(ATTACK, "50", "static")),
        cell(first(40), defended(ATTACK, "50", "bpda")),
        cell(first(90), defended(ATTACK, "10+90", "static")),
        cell(first(77), quality=33, simulation="dali"),
    ]
    results = write_cells(folder / "results", cells)
    timings = [
        {"cell_id": cells[0][0].cell_id, "versions": {"torch": "9.9.9"}},
        {"cell_id": "of another folder", "versions": {"torch": "1.2.3"}},
    ]
    (results / "timings.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in timings) + '{"cut')
    report(results, None, folder / "report.html")
    return folder


def test_the_defence_plot_holds_every_threat_and_the_undefended_model(studied: Path) -> None:
    plot = plots_of(studied / "report.html")["s1-defence-0"]
    assert plot["layout"]["xaxis"]["ticktext"] == ["none", "q50", "q10+90"]
    points = sorted((trace["name"], trace["x"], trace["y"]) for trace in plot["data"] if "name" in trace)
    assert points == [
        ("bpda", [1.0], [20.0]),
        ("no attack", [1.0], [70.0]),
        ("no defence", [0.0], [10.0]),
        ("static", [1.0], [50.0]),
        ("static", [2.0], [45.0]),
    ]


def test_defended_cells_are_in_no_curve(studied: Path) -> None:
    data = plots_of(studied / "report.html")["s1-quality-0"]["data"]
    assert sorted(y for trace in data if "name" in trace for y in trace["y"]) == [10.0, 10.0, 60.0, 75.0]
    assert {row["test_quality"] for row in read_csv(studied / "matrix.csv")} == {"", "10"}


def test_the_defence_table_and_the_findings_agree(studied: Path) -> None:
    rows = {
        (row["defence_quality"], row["threat"]): row for row in read_csv(studied / "tables" / "defences.csv")
    }
    assert float(rows["50", "bpda"]["robust_defended"]) == pytest.approx(0.2)
    assert float(rows["50", "bpda"]["difference"]) == pytest.approx(0.1)
    text = text_of(studied / "report.html")
    assert "the strongest kind evaluated, 50.0 [" in text
    assert "; but 20.0 [" in text
    assert "+10.0 [" in text


def test_simulated_rows_stand_apart_and_have_no_rate(studied: Path) -> None:
    text = text_of(studied / "report.html")
    assert "These rows were not measured on encoded files." in text
    assert "jpeg q33 no attack dali 200 1 38.5 [" in text
    assert "q33" not in json.dumps(plots_of(studied / "report.html"))
    assert not [
        row for row in read_csv(studied / "tables" / "comparisons.csv") if "33" in row["after_test_quality"]
    ]


def test_only_simulated_results_are_a_page_too(tmp_path: Path) -> None:
    results = write_cells(tmp_path / "results", [cell(first(77), quality=33, simulation="dali")])
    text = text_of(report(results, write_data(tmp_path / "flowers"), tmp_path / "report.html"))
    assert "Every result is simulated: none was measured on encoded images." in text
    assert "Nothing was compared" in text


def value(text: str) -> str | float:
    """A CSV field as a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def test_every_table_is_there_twice_with_equal_content(studied: Path) -> None:
    names = {path.relative_to(studied).with_suffix("") for path in studied.rglob("*.csv")}
    assert {path.relative_to(studied).with_suffix("") for path in studied.glob("*.parquet")} <= names
    assert {path.name for path in names} == {
        *("metrics", "matrix", "classes", "comparisons", "limits", "defences", "masking", "calibration"),
        *("recall", "flips"),
    }
    for name in names:
        table = pq.read_table(studied / f"{name}.parquet").to_pylist()
        lines = read_csv(studied / f"{name}.csv")
        assert len(table) == len(lines) > 0
        for row, line in zip(table, lines, strict=True):
            assert list(row) == list(line)
            for field, text in line.items():
                if row[field] is None:
                    assert text == ""
                elif isinstance(row[field], int | float):
                    assert float(text) == row[field]
                    assert not math.isnan(row[field])
                else:
                    assert text == row[field]


def test_the_margin_of_the_command_reaches_the_page(tmp_path: Path) -> None:
    results = write_cells(tmp_path / "results", [cell(first(900, 1000)), cell(first(870, 1000), quality=10)])
    command = ["report", str(results), "--output", str(tmp_path / "r.html")]
    found = CliRunner().invoke(limla, [*command, "--margin", "6"])
    assert found.exit_code == 0
    assert "store jpeg at quality 10 or better: it loses less than 6 points" in text_of(tmp_path / "r.html")
    wrong = CliRunner().invoke(limla, [*command, "--margin", "0"])
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert "above 0 and below 100" in wrong.stderr


def test_the_methods_say_what_was_done_and_cite_what_they_name(studied: Path) -> None:
    text = text_of(studied / "report.html")
    methods = text[text.rindex("Methods, to paste") : text.index("BibTeX of the works cited")]
    for expected in (
        "We evaluated on the test split of flowers (200 images)",
        "on the original files and re-encoded with JPEG [@wallace1992] at quality 10",
        "PGD [@madry2018] (L∞, ε = 8/255, steps 10)",
        "(jpeg q50 and jpeg q10+90 at random; several qualities: one drawn at random for each image)",
        "Attackers: one who does not know of it; one who runs the real codec forward",
        "Some qualities were simulated on the fly (dali)",
        "Software of the evaluation: torch 9.9.9.",
    ):
        assert expected in methods
    assert "fgsm" not in methods.lower()
    cited = set(re.findall(r"@([a-z]+\d{4}[a-z]*)", methods))
    entries = set(re.findall(r"@[a-z]+\{([a-z0-9]+),", text))
    assert cited == entries


def test_flips_show_their_pictures_from_the_shards(tmp_path: Path) -> None:
    """Two of four images flip at q10; the third picture shown is the other's, surer one first."""
    folder = tmp_path / "shards"
    for name, codec, quality, strength in (("source", "source", None, 95), ("jpeg-q10", "jpeg", 10, 10)):
        samples = [member(number, 24, 32, quality=strength) for number in range(4)]
        write_variant(folder / name, {"test": [samples]}, codec, quality)
    keys = [member(number, 24, 32).key for number in range(4)]
    for quality, name, flipped in ((None, "source", ()), (10, "jpeg-q10", (1, 2))):
        data_id = read_manifest(folder / name).data_id("test")
        made = condition(quality, dataset="things", data_id=data_id, preprocessing="none")
        rows = [
            PredictionRow(key, n % 3, (n + (n in flipped)) % 3, n not in flipped, 0.5, 0.5 + n / 10)
            for n, key in enumerate(keys)
        ]
        write_predictions(tmp_path / "results", made, rows)
    page = report(tmp_path / "results", folder, tmp_path / "report.html")
    alts = [value for name, value in read_page(page).attributes if name == "alt"]
    assert alts == [f"{keys[n]}: {when}" for n in (2, 1) for when in ("before", "jpeg q10")]
    text = text_of(page)
    assert "before ✓ cat 70%" in text
    assert "jpeg q10 ✗ ant 70%" in text


def test_without_the_shards_the_page_says_why_there_is_no_picture(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", [NONE, PGD])
    assert "give the dataset's folder (--data-dir) to see them" in text_of(
        report(results, None, tmp_path / "report.html")
    )
    # manifests and encodings alone: the tars are gone
    text = text_of(report(results, write_data(tmp_path / "flowers"), tmp_path / "report.html"))
    assert "The pictures of flips could not be read from the shards: " in text


def test_training_conditions_share_one_plot(tmp_path: Path) -> None:
    for quality, right in ((None, 54), (10, 30)):
        write_predictions(tmp_path, condition(quality), rows_with(right))
        other = condition(quality, train_codec="jpeg", train_quality="10", checkpoint_id="other")
        write_predictions(tmp_path, other, rows_with(48))
    plot = plots_of(report(tmp_path, None, tmp_path / "report.html"))["s1-training-0"]
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in plot["data"] if "name" in trace}
    assert lines == {
        "MobileNetV2 · originals": ([0.0, 1.0], [50.0, 90.0]),
        "MobileNetV2 · jpeg q10": ([0.0, 1.0], [80.0, 80.0]),
        "trained at the test quality": ([0.0], [80.0]),
    }


def test_steps_that_grow_with_eps_are_one_attack_and_step_numbers_are_not(tmp_path: Path) -> None:
    cells = [cell(first(150))]
    cells += [cell(first(9), attacked("pgd", eps=eps, alpha=eps / 4, steps=10)) for eps in (2 / 255, 8 / 255)]
    cells += [cell(first(9), attacked("pgd", eps=8 / 255, alpha=2 / 255, steps=40))]
    page = report(write_cells(tmp_path, cells), None, tmp_path / "report.html")
    text = text_of(page)
    assert "PGD [@madry2018] (L∞, ε = 2/255 and 8/255, alpha 0.5/255 and 2/255, steps 10)" in text
    assert "PGD [@madry2018] (L∞, ε = 8/255, alpha 2/255, steps 40)" in text
    plots = {name: plot for name, plot in plots_of(page).items() if name.startswith("s1-eps")}
    assert [len(trace["x"]) for trace in plots["s1-eps-0"]["data"] if "name" in trace] == [3]
    assert list(plots) == ["s1-eps-0"]  # of 40 steps there is one eps only


def test_targeted_success_stands_beside_the_other(tmp_path: Path) -> None:
    cells = [
        cell(first(20, 20)),
        cell(first(5, 20), attacked("pgd", steps=10), targets=[(number + 1) % 10 for number in range(20)]),
    ]
    text = text_of(report(write_cells(tmp_path, cells), None, tmp_path / "report.html"))
    assert re.search(r"75\.0 \[[^]]*\], targeted 75\.0 \[", text)
    assert {row["metric"] for row in read_csv(tmp_path / "matrix.csv")} == {
        *("accuracy", "robust_accuracy", "attack_success_rate", "targeted_success_rate"),
    }


def test_every_codec_of_the_catalogue_is_named_and_cited() -> None:
    for name in CODECS.names():
        text = _codec_text(name)
        assert name in _CODECS, name
        assert bibtex(re.findall(r"@([a-z]+\d{4}[a-z]*)", text)) or name == "png"
    assert _codec_text("webp-bpp") == (
        "WebP [@rfc2024], each image at the quality nearest to a rate in 0.001 bits per pixel of"
    )
    assert _codec_text("jepg") == "jepg at quality"
