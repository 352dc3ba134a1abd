"""The report on synthetic rows whose numbers are known."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from limla.cli import limla
from limla.errors import DataError, LimlaError
from limla.files import write_json
from limla.manifest import Manifest, variant_name
from limla.reporting import report
from limla.reporting.drawing import label_offsets
from limla.reporting.pictures import MAX_SIDE, magnified_difference
from limla.reporting.sections import eps_text
from limla.results import Condition, EncodingRow, PredictionRow, encoding_table, write_predictions, write_table
from limla.shards import ShardEntry

QUALITIES = (1, 10, 50)
HOSTILE = ("<script>alert(1)</script>", r"$\frac{$ & \"quoted\"", "日本の花")
NUM_IMAGES = 60
RATES = {1: 0.25, 10: 0.5, 50: 1.0, None: 4.0}
NONE = ("none", "", 0.0, "{}")
PGD = ("pgd", "linf", 8 / 255, '{"alpha":0.0078,"random_start":true,"steps":10}')
# images of 60 that are right, by (attack, test quality)
CORRECT = {
    ("none", None): 54,
    ("none", 50): 54,
    ("none", 10): 48,
    ("none", 1): 21,
    ("pgd", None): 6,
    ("pgd", 50): 6,
    ("pgd", 10): 30,
    ("pgd", 1): 18,
}


class Reader(HTMLParser):
    """Collects what the tests ask about, and refuses badly nested HTML."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.stack == []
    return reader


def text_of(path: Path) -> str:
    return " ".join(" ".join(read_page(path).text).split())


def write_data(folder: Path, dataset: str = "flowers", names: Sequence[str] = HOSTILE) -> Path:
    """Shard folders as far as a report reads them: manifests and encodings."""
    for quality in (None, *QUALITIES):
        codec = "source" if quality is None else "jpeg"
        variant = folder / variant_name(codec, quality)
        shard = ShardEntry("test-000000.tar", "test", NUM_IMAGES, 1000, f"sha-{dataset}-{quality}")
        audit = {
            "warnings": ["JPEG quality of the sources depends on the class"],
            "all": {"converted": {"orientation": 3, "alpha": 1}},
            "notes": {"ICC profile that is not sRGB": 4},
        }
        summary = {"found": 62, "packed": 60, "quarantined": 2, "skipped": 0, "audit": audit}
        manifest = Manifest(
            dataset,
            codec,
            quality,
            tuple(names),
            (shard,),
            {"subsampling": "420"},
            {"simplejpeg": "1.9"},
            summary,
        )
        psnr = math.inf if quality is None else 20.0 + quality / 10
        rows = [
            EncodingRow(
                f"test/{number}",
                "test",
                codec,
                quality,
                80,
                100,
                round(RATES[quality] * 1000),
                RATES[quality],
                psnr if number < 20 and quality is not None else None,
                0.9 if number < 20 and quality is not None else None,
            )
            for number in range(NUM_IMAGES)
        ]
        write_table(variant / "encoding.parquet", encoding_table(rows))
        manifest.write(variant)
    return folder


def condition(quality: int | None, attack: tuple[str, str, float, str] = NONE, **changes: object) -> Condition:
    dataset = str(changes.pop("dataset", "flowers"))
    shard_sha = f"sha-{dataset}-{quality}"
    shard = ShardEntry("test-000000.tar", "test", NUM_IMAGES, 1000, shard_sha)
    data_id = Manifest(dataset, "jpeg", quality, HOSTILE, (shard,), {}, {}).data_id("test")
    base = Condition(
        dataset=dataset,
        data_id=data_id,
        split="test",
        task="classification",
        model="MobileNetV2",
        checkpoint_id="c0ffee0000000000",
        seed=0,
        train_codec="source",
        train_quality="source",
        test_codec="source" if quality is None else "jpeg",
        test_quality=quality,
        preprocessing="shorter73-crop64",
        attack=attack[0],
        norm=attack[1],
        eps=attack[2],
        attack_settings=attack[3],
        decoder="cpu",
        precision="float32",
        batch_size=32,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def rows_with(num_correct: int) -> list[PredictionRow]:
    """60 images of three classes of which the first `num_correct` are right."""
    return [
        PredictionRow(
            f"test/{number}", number % 3, (number + (number >= num_correct)) % 3, number < num_correct, 0.5, 0.8
        )
        for number in range(NUM_IMAGES)
    ]


def write_results(folder: Path, attacks: Sequence[tuple[str, str, float, str]] = (NONE, PGD)) -> Path:
    for attack in attacks:
        for quality in (None, *QUALITIES):
            write_predictions(folder, condition(quality, attack), rows_with(CORRECT[attack[0], quality]))
    return folder


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


def test_it_is_well_formed_self_contained_and_small(made: Path) -> None:
    reader = read_page(page(made))
    html = page(made).read_text(encoding="utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert not {"script", "iframe", "object"} & set(reader.tags)
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
    assert reader.tags.count("svg") == 6  # two curves, two matrices, rate and distortion, classes
    assert len(html) < 1_000_000


def test_names_from_the_data_are_escaped_everywhere(made: Path) -> None:
    html = page(made).read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2  # in the page and in a figure's text
    drawn = "".join(part.split("</svg>")[0] for part in html.split("<svg")[1:])
    assert "&lt;script&gt;" in drawn
    assert r"$\frac{$ &amp;" in drawn  # a dollar sign starts no formula
    assert "日本の花" in drawn


def test_hostile_model_and_attack_names(tmp_path: Path) -> None:
    hostile = condition(None, ("<b>$x$", "linf", 0.1, "not json"), model="<img src=x onerror=alert(1)>")
    write_predictions(tmp_path, hostile, rows_with(30))
    reader = read_page(report(tmp_path, None, tmp_path / "r.html"))
    assert not {"img", "b", "script"} & set(reader.tags)
    assert "onerror=alert(1)" in "".join(reader.text)


def test_equal_rows_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    again = report(made / "results", [made / "flowers"], tmp_path / "again.html")
    assert again.read_bytes() == page(made).read_bytes()
    for name in ("metrics.csv", "matrix.csv", "classes.csv", "encoding.csv"):
        assert (tmp_path / name).read_bytes() == (page(made).parent / name).read_bytes()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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


def test_names_at_the_points_cover_no_other() -> None:
    apart = [(0.0, 0.0), (100.0, 50.0)]
    assert label_offsets(apart, ["q1", "q10"]) == [(4.0, -9.0)] * 2
    assert label_offsets([(0.0, 0.0), (3.0, 1.0)], ["q1", "q10"]) == [(-4 - 2 * 0.65 * 7.5, 4.0), (4.0, -9.0)]
    close = [(0.0, 0.0), (3.0, 1.0), (4.0, 1.0), (4.0, 2.0), (5.0, 2.0), (5.0, 2.0)]
    offsets = label_offsets(close, ["q1"] * 6)
    boxes = [(x + o[0], y + o[1]) for (x, y), o in zip(close, offsets, strict=True) if o is not None]
    assert 2 <= len(boxes) < 6
    for number, (x, y) in enumerate(boxes):
        assert all(abs(x - a) >= 2 * 4.5 or abs(y - b) >= 7.5 for a, b in boxes[:number])


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
    assert "not a readable Parquet file" in damaged.stderr
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
