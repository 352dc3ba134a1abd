"""The report on synthetic rows whose numbers are known."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from limla.files import write_json
from limla.reporting import report
from limla.reporting.pictures import MAX_SIDE, magnified_difference
from tests.unit.reported import (
    HOSTILE,
    NONE,
    PGD,
    condition,
    plots_of,
    read_csv,
    read_page,
    text_of,
    without_plotly,
    write_data,
    write_results,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, results and a full report. Read only."""
    folder = tmp_path_factory.mktemp("report")
    data, results = write_data(folder / "flowers"), write_results(folder / "results")
    for quality, attack in ((None, NONE), (10, NONE), (None, PGD)):
        cell = condition(quality, attack)
        pictures = folder / "results" / "samples" / cell.cell_id
        pictures.mkdir(parents=True)
        shade = 120 + 4 * (attack == PGD)
        PillowImage.fromarray(np.full((200, 200, 3), shade, np.uint8)).save(pictures / "test__0.png")
        entry = {"file": "test__0.png", "key": "test/0", "label": 0, "prediction": 0, "confidence": 0.87}
        write_json(pictures / "index.json", {"pictures": [entry]})
    report(results, data, folder / "new" / "folder" / "report.html")
    return folder


def page(made: Path) -> Path:
    return made / "new" / "folder" / "report.html"


def test_the_headline_states_the_known_numbers(made: Path) -> None:
    text = text_of(page(made))
    assert (
        "On the originals (4 bpp), MobileNetV2 trained on the originals is right on 90.0% [79.9, 95.3]" in text
    )
    assert "of the 60 test images" in text
    # 48/60 is [68.2, 88.2], which overlaps with [79.9, 95.3]; 21/60 is [24.2, 47.6], which does not
    assert "Down to q10 (0.5 bpp, 80.0% [68.2, 88.2]) its interval overlaps with that" in text
    assert "at q1 (0.25 bpp, 35.0% [24.2, 47.6]) it lies below" in text
    assert "PGD-10, ε = 8/255, leaves 10.0% [4.7, 20.1] correct on the originals (4 bpp)" in text
    assert "and most at q10 (0.5 bpp): 50.0% [37.7, 62.3], an interval above that" in text


def test_it_is_well_formed_and_self_contained(made: Path) -> None:
    reader = read_page(page(made))
    html = without_plotly(page(made))
    assert "http://" not in html
    assert "https://" not in html
    assert not {"iframe", "object", "embed"} & set(reader.tags)
    loaded = [value for name, value in reader.attributes if name in ("src", "srcset", "data")]
    assert loaded
    assert all(value.startswith("data:image/png;base64,") for value in loaded)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = [
        value[1:] for name, value in reader.attributes if name.endswith("href") and value.startswith("#")
    ]
    assert targets
    assert set(targets) <= set(ids)
    assert len(html) < 1_000_000


def test_plotly_is_there_once_and_only_named_scripts_run(made: Path) -> None:
    """The policy names each script by its hash: nothing that came in with a name from the data could run."""
    html = page(made).read_text(encoding="utf-8")
    assert html.count("window.Plotly = Plotly;") == 1
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    assert policy[1].endswith("script-src " + " ".join(f"'sha256-{text}'" for text in hashes))
    assert len(scripts) == 2


def test_plots_hold_the_numbers(made: Path) -> None:
    found = plots_of(page(made))
    assert list(found) == ["s1-quality-0", "s1-rate-0", "s1-psnr-0", "s1-psnr-1", "s1-reliability-0"]
    lines = {(trace["name"], len(trace["x"])): trace for trace in found["s1-rate-0"]["data"] if "name" in trace}
    clean = lines["no attack", 3]
    assert (clean["x"], clean["y"]) == ([0.25, 0.5, 1.0], [35.0, 80.0, 90.0])
    assert clean["hovertext"][1] == "no attack<br>q10, 0.5 bpp<br>80.0% [68.2, 88.2]<br>n = 60"
    assert lines["no attack", 1]["x"] == [4.0]
    assert lines["PGD-10, ε = 8/255", 3]["y"] == [30.0, 50.0, 10.0]
    assert found["s1-quality-0"]["layout"]["xaxis"]["ticktext"] == ["q1", "q10", "q50", "orig."]
    assert [trace["y"] for trace in found["s1-psnr-0"]["data"]] == [pytest.approx([20.1, 21.0, 25.0])]


def test_names_from_the_data_are_escaped_everywhere(made: Path) -> None:
    html = page(made).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2  # in the page and in a figure's text
    drawn = "".join(part.split("</svg>")[0] for part in html.split("<svg")[1:])
    assert "&lt;script&gt;" in drawn
    assert r"$\frac{$ &amp;" in drawn  # a dollar sign starts no formula
    assert "日本の花" in drawn


def test_equal_rows_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    again = report(made / "results", [made / "flowers"], tmp_path / "again.html")
    assert again.read_bytes() == page(made).read_bytes()
    for name in ("metrics.csv", "matrix.csv", "classes.csv", "encoding.csv"):
        assert (tmp_path / name).read_bytes() == (page(made).parent / name).read_bytes()


def test_the_csv_files_hold_the_numbers(made: Path) -> None:
    metrics = read_csv(page(made).parent / "metrics.csv")
    assert len(metrics) == 4 * 5 + 4 * 6
    robust = next(r for r in metrics if r["metric"] == "robust_accuracy" and r["test_quality"] == "10")
    assert (float(robust["value"]), robust["num_samples"], robust["model"]) == (0.5, "60", "MobileNetV2")
    success = next(r for r in metrics if r["metric"] == "attack_success_rate" and r["test_quality"] == "")
    assert (float(success["value"]), success["num_samples"]) == (pytest.approx(48 / 54), "54")
    matrix = read_csv(page(made).parent / "matrix.csv")
    clean = {row["test_quality"]: row for row in matrix if row["metric"] == "accuracy"}
    assert {quality: float(row["value"]) for quality, row in clean.items()} == {
        "": 0.9,
        "50": 0.9,
        "10": 0.8,
        "1": 0.35,
    }
    assert {q: float(row["mean_rate_bpp"]) for q, row in clean.items()} == {
        "": 4.0,
        "50": 1.0,
        "10": 0.5,
        "1": 0.25,
    }
    classes = read_csv(page(made).parent / "classes.csv")
    first = next(r for r in classes if r["test_quality"] == "1" and r["attack"] == "none" and r["label"] == "0")
    assert (first["class"], float(first["recall"]), first["num_samples"]) == (HOSTILE[0], 0.35, "20")
    assert float(first["drop"]) == pytest.approx(0.55)


def test_encodings_state_what_they_are_a_mean_of(made: Path) -> None:
    rows = {row["quality"]: row for row in read_csv(page(made).parent / "encoding.csv")}
    assert (rows["10"]["num_images"], rows["10"]["num_measured"]) == ("60", "20")
    assert (float(rows["10"]["mean_rate_bpp"]), float(rows["10"]["mean_psnr_db"])) == (0.5, 21.0)
    assert (rows[""]["num_measured"], rows[""]["mean_psnr_db"]) == ("0", "")
    assert "Rate over all images of the test split" in text_of(page(made))


def test_settings_counts_warnings_and_checkpoints_are_there(made: Path) -> None:
    text = text_of(page(made))
    for expected in (
        "c0ffee0000000000 (0)",
        "shorter73-crop64",
        "subsampling = 420",
        "simplejpeg 1.9",
        "found 62, packed 60, quarantined 2, skipped 0, test images 60, classes 3",
        "Audit of the sources: JPEG quality of the sources depends on the class",
        "Stored as PNG on packing, by reason (a picture may have several): alpha 1, orientation 3.",
        "Noted on packing, in pictures: ICC profile that is not sRGB 4.",
        "matplotlib",
        "Wilson",
    ):
        assert expected in text
    assert "Not in this report" not in text


def test_the_strip_shows_pictures_and_the_magnified_change(made: Path) -> None:
    reader = read_page(page(made))
    text = " ".join(" ".join(reader.text).split())
    assert reader.tags.count("img") == 4
    assert f"the central {MAX_SIDE} × {MAX_SIDE} pixels" in text
    assert "change ×10" in text
    assert "✓ <script>alert(1)</script> 87%" in text
    before, after = np.full((2, 2, 3), 120, np.uint8), np.full((2, 2, 3), 124, np.uint8)
    assert (magnified_difference(before, after) == 168).all()
    assert (magnified_difference(after, before) == 88).all()
    assert (magnified_difference(np.zeros_like(before), after) == 255).all()
