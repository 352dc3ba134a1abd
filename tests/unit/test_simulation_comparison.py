"""`limla simulation`: its numbers against the rows and images themselves."""

from __future__ import annotations

import csv
import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.codecs.jpeg import JpegCodec
from limla.errors import DataError, SettingsError
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.simulation import open_simulation
from limla.reencoding import ReencodeSettings, reencode
from limla.results import read_predictions
from limla.simulation import SimulationResult, SimulationSettings, compare_simulation, pixel_difference
from limla.types import Preprocessing
from tests.unit.animals import files_of
from tests.unit.things import NUM_THINGS, data_dir, write_things_checkpoint
from tests.variants import member, write_variant

__all__ = ["data_dir"]  # a fixture


@pytest.fixture(scope="module")
def settings(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulationSettings:
    """Two seeds of one network, and another network, which takes larger crops."""
    folder = tmp_path_factory.mktemp("models")
    checkpoints = (
        write_things_checkpoint(folder / "0.pt", data_dir, seed=0),
        write_things_checkpoint(folder / "1.pt", data_dir, seed=1),
        write_things_checkpoint(folder / "2.pt", data_dir, seed=0, image_size=32),
    )
    return SimulationSettings(
        data_dir=data_dir,
        output_dir=tmp_path_factory.mktemp("compared"),
        checkpoints=checkpoints,
        qualities=(3, 40),
        batch_size=4,
        device="cpu",
    )


@pytest.fixture(scope="module")
def compared(settings: SimulationSettings) -> SimulationResult:
    """By DALI. Read only."""
    return compare_simulation(settings)


def test_the_real_codec_is_identical_in_every_pixel(settings: SimulationSettings, tmp_path: Path) -> None:
    result = compare_simulation(replace(settings, simulate="cpu", output_dir=tmp_path))
    assert len(result.rows) == 2 * 2
    for row in result.rows:
        assert row.num_identical == row.num_images == NUM_THINGS
        assert row.mean_psnr_db is row.min_psnr_db is None
        assert row.accuracy_real == row.accuracy_simulated
        assert (row.difference, row.equal_predictions) == (0, 1)
        assert row.low <= 0 <= row.high


def test_seeds_of_one_model_are_compared_together(compared: SimulationResult) -> None:
    assert [(row.quality, row.num_seeds) for row in compared.rows] == [(3, 2), (40, 2), (3, 1), (40, 1)]
    small, large = {row.model for row in compared.rows}
    assert small != large


def test_rates_are_those_of_the_rows(settings: SimulationSettings, compared: SimulationResult) -> None:
    found: dict[tuple[str, int | None, bool], list[Any]] = {}
    for condition, table in read_predictions(settings.output_dir):
        assert condition.decoder == "dali-cpu"
        cell = (condition.preprocessing, condition.test_quality, bool(condition.simulation))
        columns = [table[name].to_numpy(zero_copy_only=False) for name in ("correct", "prediction")]
        found.setdefault(cell, []).append((condition.seed, *columns))
    for row, preprocessing in zip(
        compared.rows, ["shorter27-crop24"] * 2 + ["shorter37-crop32"] * 2, strict=True
    ):
        real, simulated = (
            sorted(found[preprocessing, row.quality, is_simulated], key=lambda run: run[0])
            for is_simulated in (False, True)
        )
        assert row.accuracy_real == pytest.approx(np.mean([run[1] for run in real]))
        assert row.accuracy_simulated == pytest.approx(np.mean([run[1] for run in simulated]))
        assert row.difference == pytest.approx(row.accuracy_simulated - row.accuracy_real)
        assert row.low <= row.difference <= row.high
        equal = [one[2] == other[2] for one, other in zip(real, simulated, strict=True)]
        assert row.equal_predictions == pytest.approx(np.mean(equal))


def test_psnr_is_that_of_the_models_inputs(settings: SimulationSettings, compared: SimulationResult) -> None:
    loading = LoaderSettings(Preprocessing(image_size=24), batch_size=NUM_THINGS)
    (of_quality_3,) = (row for row in compared.rows if (row.quality, row.num_seeds) == (3, 2))
    source = settings.data_dir / "source"
    with (
        closing(open_loader("dali", [settings.data_dir / "jpeg-q3"], "test", loading)) as loader,
        closing(open_simulation("dali", source, "test", loading, JpegCodec(), (3,))) as simulation,
    ):
        ((batch,),) = simulation
        (real,) = loader
    values = [
        -10 * math.log10(np.mean((one.numpy().astype(np.float64) - other.numpy()) ** 2))
        for one, other in zip(batch.images, real.images, strict=True)
        if not np.array_equal(one, other)
    ]
    assert of_quality_3.num_identical == NUM_THINGS - len(values)
    assert of_quality_3.mean_psnr_db == pytest.approx(np.mean(values))
    assert of_quality_3.min_psnr_db == pytest.approx(min(values))
    assert min(values) > 25


def test_psnr_of_known_differences() -> None:
    found = pixel_difference(10, "none", np.array([0.0, 0.01, 0.0001, 0.0]))
    assert (found.num_images, found.num_identical) == (4, 2)
    assert found.mean_psnr_db == pytest.approx(30)
    assert found.min_psnr_db == pytest.approx(20)
    nothing = pixel_difference(10, "none", np.zeros(2))
    assert (nothing.num_identical, nothing.mean_psnr_db, nothing.min_psnr_db) == (2, None, None)


def test_the_files_hold_the_rows(compared: SimulationResult) -> None:
    about = json.loads(compared.json_path.read_text())
    assert about["simulate"] == "dali"
    assert about["codec"]["subsampling"] == "420"
    assert about["decoders"] == ["dali-cpu"]
    assert [row["quality"] for row in about["rows"]] == [3, 40, 3, 40]
    with compared.csv_path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line, row, entry in zip(lines, compared.rows, about["rows"], strict=True):
        assert entry == vars(row)
        assert line == {name: "" if value is None else str(value) for name, value in vars(row).items()}


def test_a_second_comparison_computes_nothing_and_says_the_same(
    settings: SimulationSettings, compared: SimulationResult
) -> None:
    before, text = files_of(settings.output_dir), compared.json_path.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (settings.output_dir / "predictions").iterdir()}
    assert len(before) == 3 * 2 * 2
    assert compare_simulation(settings) == compared
    assert stamps == {path: path.stat().st_mtime_ns for path in (settings.output_dir / "predictions").iterdir()}
    assert compared.json_path.read_bytes() == text


def test_what_cannot_be_compared_is_refused(settings: SimulationSettings, tmp_path: Path) -> None:
    fresh = replace(settings, output_dir=tmp_path / "out")
    with pytest.raises(SettingsError, match="no model"):
        replace(settings, checkpoints=())
    with pytest.raises(SettingsError, match="named twice"):
        replace(settings, qualities=(3, 3))
    with pytest.raises((SettingsError, DataError), match=r"jpeg-q7.*there: source, jpeg-q3, jpeg-q40"):
        compare_simulation(replace(fresh, qualities=(7,)))
    coarse = tmp_path / "things"
    write_variant(coarse / "source", {"test": [[member(0, 40, 40)]]})
    reencode(coarse, ReencodeSettings(qualities=(3,), subsampling="444", measure="none", workers=1))
    with pytest.raises(SettingsError, match="jpeg-q3: made with subsampling '444', but '420' is simulated"):
        compare_simulation(replace(fresh, data_dir=coarse, qualities=(3,)))
    assert not (tmp_path / "out").exists()


def test_command_line(settings: SimulationSettings, compared: SimulationResult, tmp_path: Path) -> None:
    words = ["simulation", "--checkpoint", settings.checkpoints[2], "--data-dir", settings.data_dir]
    words += ["--output-dir", tmp_path, "--batch-size", 4, "--device", "cpu"]
    done = CliRunner().invoke(limla, list(map(str, words)))
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines() if "jpeg" in line and "compact" in line]
    assert len(lines) == 2, "all the qualities that are there"
    notes = [line for line in done.stderr.splitlines() if "images" not in line]
    assert len(set(notes)) == len(notes)
    of_same_model = [row for row in compared.rows if row.num_seeds == 1]
    for line, row in zip(lines, of_same_model, strict=True):
        assert f"{row.accuracy_real:.3f}" in line
        assert f"{row.difference:+.3f}" in line
        assert f"{row.mean_psnr_db:.1f}" in line
    assert str(tmp_path / "simulation-dali.csv") in done.stdout
    refused = CliRunner().invoke(limla, [*map(str, words), "--simulate", "gpu"])
    assert refused.exit_code == 2
    assert "known: cpu, dali" in refused.output
