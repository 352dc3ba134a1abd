"""The scripts of benchmarks/ on a handful of images; never their speed, but that all contenders did the same work."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limla.benchmarking.data import generated_photos, photos_of_folder
from limla.benchmarking.harness import as_record
from limla.benchmarking.machine import describe_machine
from limla.cli.console import ConsoleProgress
from limla.errors import MissingDependencyError
from limla.files import write_json
from tests.unit.compared import compared_here

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_IMAGES = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of about 500×375, one fewer than the benchmarks are asked for."""
    folder = tmp_path_factory.mktemp("large")
    for number, photo in enumerate(generated_photos(NUM_IMAGES - 1)):
        (folder / f"{number}.jpg").write_bytes(photo.data)
    return folder


@pytest.fixture(scope="module")
def measured(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON files of the benchmarks with peers, one pass of each in its own process."""
    results = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCHMARKS / "compare.py"), str(photos), "--only", "reencode,load"]
    command += ["--images", str(NUM_IMAGES), "--batch-size", "2", "--rounds", "0", "--output-dir", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return results


def _record(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text())


def test_every_contender_of_reencoding_made_the_same_files(measured: Path) -> None:
    found = _record(measured, "reencode")
    names = {row["contender"] for row in found["contenders"]}
    limits = {"in-memory limit", "in-memory limit, colours converted once"}
    assert names == limits | {"limla reencode", "webdataset + ShardWriter", "Pillow to loose files"}
    assert {row["num_images"] for row in found["contenders"]} == {NUM_IMAGES}
    bytes_over = found["agreement"]["bytes_over_reference"]
    # the same codec with the same settings; Pillow's DCT differs
    assert set(bytes_over["webdataset + ShardWriter"].values()) == {1.0}
    assert set(bytes_over["in-memory limit, colours converted once"].values()) == {1.0}
    assert list(bytes_over["limla reencode"].values()) == pytest.approx([1.0] * 7, abs=0.01)
    assert len(bytes_over["Pillow to loose files"]) == 7


def test_spdl_without_ffmpeg_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    spdl_io = pytest.importorskip("spdl.io")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers  # type: ignore[import-not-found]

    def no_ffmpeg() -> None:
        raise RuntimeError("Failed to import FFmpeg binding")

    monkeypatch.setitem(vars(spdl_io), "demux_config", no_ffmpeg)
    with pytest.raises(MissingDependencyError, match="apt install --no-install-recommends ffmpeg"):
        next(peers.spdl("nowhere", 1, 1, False))


def test_every_contender_of_loading_gave_the_same_pictures(measured: Path) -> None:
    found = _record(measured, "load")
    names = {row["contender"] for row in found["contenders"]}
    assert len(names) + len(found["skipped"]) == 8
    assert "DALI as in its documentation" in names
    assert set(found["skipped"]) <= {"SPDL"}
    assert {row["num_images"] for row in found["contenders"]} == {NUM_IMAGES}
    assert set(found["agreement"]["differences"]) == names - {"decode-only limit", "limla cpu"}


def test_models_and_growth_are_measured_and_the_page_is_made_from_the_json(
    photos: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare as script  # type: ignore[import-not-found]
    import growth  # type: ignore[import-not-found]
    import throughput  # type: ignore[import-not-found]

    monkeypatch.setattr(script, "compare", compared_here)
    monkeypatch.setattr(growth, "compare", compared_here)
    monkeypatch.setattr(growth, "_REST_S", 0)
    options = script.Options(num_images=4, num_evaluated=2, num_small=200, batch_size=2, rounds=1, threads=2)
    for name in ("evaluate", "end-to-end", "growth"):
        values = script.measure(name, photos_of_folder(photos, 2), options, ConsoleProgress())
        settings = {**dataclasses.asdict(options), "evaluated": 2, "images": 4}
        write_json(tmp_path / f"{name}.json", as_record(values, "a test", "pytest", settings))

    parts = _record(tmp_path, "evaluate")["agreement"]["parts"]
    assert set(parts) == {"clean", "fgsm", "pgd"}
    assert parts["clean"]["fraction_of_values_equal_within_1e-5"] == 1
    passes = _record(tmp_path, "end-to-end")["passes"]
    assert [row["contender"] for row in passes] == [
        "limla evaluate, clean",
        "limla evaluate, clean + FGSM + PGD",
    ]
    assert all(0 < row["facts"]["waiting"] + row["facts"]["model"] < row["seconds"] for row in passes)
    rows = _record(tmp_path, "growth")["growth"]
    assert [row["stage"] for row in rows] == ["pack", "reencode", "load", "evaluate"]
    assert [row["num_images"] for row in rows[:2]] == [[10, 100, 200]] * 2
    assert rows[0]["peak_memory_ratio"] == 20  # `compared_here` gives as many MB as images

    for name in ("reencode", "load"):
        (tmp_path / f"{name}.json").write_bytes((measured / f"{name}.json").read_bytes())
    throughput.write_page(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    ratio = next(row for row in _record(measured, "reencode")["ratios"] if row["contender"] == "limla reencode")
    assert f"| limla reencode | in-memory limit | ≥ 0.9 | ≥ 0.95 | **{ratio['median']:.2f}**" in page
    assert "| limla cpu | DALI as in its documentation | – | – | **" in page
    assert "is the pipeline of DALI's own examples" in page
    assert "| peak memory of pack, 200 images | 10 images | ≤ 1.05 | – | **20.00** | **grows** |" in page
    assert "Still to be measured" in page
    assert "Not measured yet" not in page
    assert "limla reencode" in (tmp_path / "benchmarks.svg").read_text()


def test_a_page_without_results_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import throughput  # type: ignore[import-not-found]

    throughput.write_page(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("Not measured yet.") == 5
    assert "| limla cpu | limla dali | ≥ 2.2 | ≥ 3.5 | – | not measured yet |" in page
    assert "DALI as in its documentation" not in page
    gpu = {
        "command": "x",
        "machine": describe_machine(),
        "loading": [{"loader": "dali", "images_per_s": 1234.5678}],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(gpu))
    throughput.write_page(tmp_path, tmp_path)
    assert "| dali | 1234.6 |" in (tmp_path / "benchmarks.md").read_text()
