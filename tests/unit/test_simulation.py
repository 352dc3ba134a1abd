"""Evaluation on simulated qualities: one pass, rows of their own, equal to those on real shards where the codec is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.errors import SettingsError, UnknownNameError
from limla.evaluation import EvaluateSettings, evaluate, planned_conditions
from limla.evaluation import stage as evaluation_stage
from limla.evaluation.grid import of_each_stream, passes, plan_cells
from limla.loaders.simulation_cpu import CpuSimulation
from limla.manifest import read_manifest
from limla.plans import DefencePlan
from limla.reporting.aggregates import metric_rows
from limla.results import Condition, prediction_path, read_predictions
from limla.types import Batch
from tests.listening import Listening
from tests.unit.animals import files_of
from tests.unit.launching import one_thread, torchrun, words_for
from tests.unit.things import NUM_THINGS, data_dir, write_things_checkpoint
from tests.variants import member, write_variant

__all__ = ["data_dir", "one_thread"]  # fixtures

QUALITIES = (None, 3, 40)
Columns = dict[tuple[Any, ...], tuple[Condition, pa.Table]]


@pytest.fixture(scope="module")
def checkpoint(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_things_checkpoint(tmp_path_factory.mktemp("model") / "best.pt", data_dir)


@pytest.fixture(scope="module")
def settings(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateSettings:
    """Three qualities, an attack that draws, and a defence; batches of 4 on the CPU, simulated."""
    return EvaluateSettings(
        data_dir=data_dir,
        results_dir=tmp_path_factory.mktemp("simulated"),
        checkpoints=(checkpoint,),
        qualities=QUALITIES,
        simulate="cpu",
        attacks=("pgd",),
        steps=2,
        defences=(DefencePlan("jpeg", (20,), ("static", "bpda")),),
        batch_size=4,
        device="cpu",
        num_pictures=2,
    )


@pytest.fixture(scope="module")
def simulated(settings: EvaluateSettings) -> Columns:
    """Read only."""
    result = evaluate(settings)
    assert len(result.cells) == 3 * (2 + 3)
    return cells_of(settings.results_dir)


@pytest.fixture(scope="module")
def real(settings: EvaluateSettings, tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """The same on the shards. Read only."""
    folder = tmp_path_factory.mktemp("real")
    evaluate(replace(settings, results_dir=folder, simulate="", loader="cpu"))
    return cells_of(folder)


def cells_of(results_dir: Path) -> Columns:
    """What is tested → the cell."""
    return {
        (c.test_quality, c.attack, c.threat, c.defence_quality): (c, table)
        for c, table in read_predictions(results_dir)
    }


def test_the_rows_are_those_on_real_shards_bit_for_bit(simulated: Columns, real: Columns) -> None:
    assert simulated.keys() == real.keys()
    columns = ["key", "label", "prediction", "correct", "loss", "confidence", "num_bytes"]
    for what, (_, table) in simulated.items():
        assert table.select(columns).equals(real[what][1].select(columns)), what
    assert len({table["loss"].to_pylist()[0] for _, table in simulated.values()}) > 8


def test_rows_say_that_they_are_simulated(simulated: Columns, real: Columns, data_dir: Path) -> None:
    source = read_manifest(data_dir / "source").data_id("test")
    for what, (condition, table) in simulated.items():
        assert condition.data_id == source
        assert condition.decoder == "cpu"
        of_shards = real[what][0]
        recorded = json.loads(condition.attack_settings)
        if condition.test_quality is None:
            assert condition == of_shards, "originals are not simulated"
            continue
        assert (condition.test_codec, condition.simulation) == ("jpeg", "cpu")
        assert recorded.pop("simulation")["subsampling"] == "420"
        assert recorded == json.loads(of_shards.attack_settings)
        assert condition.cell_id != of_shards.cell_id
        assert (table["num_bytes"].null_count == 0) == bool(condition.defence_codec), "the defence's bytes only"


def test_success_rates_pair_simulated_rows_with_their_own_clean_cell(simulated: Columns, real: Columns) -> None:
    def rates(columns: Columns) -> dict[tuple[Any, ...], float]:
        return {
            (row.condition.test_quality, row.condition.threat, row.metric): row.value
            for row in metric_rows(list(columns.values()))
            if row.metric == "attack_success_rate"
        }

    assert len(rates(simulated)) == 3 * 3
    assert rates(simulated) == pytest.approx(rates(real), nan_ok=True)


def test_a_second_run_does_nothing_and_a_lost_cell_alone_is_made_again(
    settings: EvaluateSettings, simulated: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(settings.results_dir)
    assert evaluate(settings).num_skipped == len(before) == 15
    lost = simulated[3, "pgd", "", ""][0]
    prediction_path(settings.results_dir, lost).unlink()
    selected: list[tuple[int | None, ...]] = []
    plain = CpuSimulation.__iter__

    def watched(simulation: CpuSimulation) -> Iterator[tuple[Batch, ...]]:
        selected.append(simulation.qualities)
        return plain(simulation)

    monkeypatch.setattr(CpuSimulation, "__iter__", watched)
    progress = Listening()
    result = evaluate(settings, progress)
    assert [cell.condition for cell in result.cells if cell.computed] == [lost]
    assert selected == [(3,)], "one pass, which makes nothing but the quality that is needed"
    assert (progress.done, progress.total) == (NUM_THINGS, NUM_THINGS)
    assert files_of(settings.results_dir) == before


def test_all_qualities_share_one_pass(
    settings: EvaluateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_passes: list[int] = []
    plain = evaluation_stage.run_pass

    def counted(*arguments: Any) -> Any:
        num_passes.append(len(arguments[4]))
        return plain(*arguments)

    monkeypatch.setattr(evaluation_stage, "run_pass", counted)
    result = evaluate(replace(settings, results_dir=tmp_path))
    assert num_passes == [15]
    assert [cell.condition.test_quality for cell in result.cells] == [None] * 5 + [3] * 5 + [40] * 5
    assert {cell.pass_number for cell in result.cells} == {0}


def test_clean_cells_are_never_parted_and_attacks_stay_quality_by_quality(
    settings: EvaluateSettings,
) -> None:
    """With many images a pass of attacks is cut between qualities; the clean ones make the images only once."""
    plans = of_each_stream(plan_cells(replace(settings, defences=())), 3)
    parts = passes(plans, 50_000)
    assert [[(plan.attack.name, plan.stream) for plan in part] for part in parts] == [
        [("none", 0), ("none", 1), ("none", 2)],
        [("pgd", 0)],
        [("pgd", 1)],
        [("pgd", 2)],
    ]
    assert len(passes(plans, 10)) == 1


@pytest.mark.parametrize("simulate", ["cpu", "dali"])
def test_planned_conditions_are_those_that_are_computed(
    settings: EvaluateSettings, checkpoint: Path, simulate: str, tmp_path: Path
) -> None:
    chosen = replace(settings, simulate=simulate, results_dir=tmp_path, defences=())
    result = evaluate(chosen)
    assert planned_conditions(chosen, checkpoint) == [cell.condition for cell in result.cells]
    assert {cell.condition.simulation for cell in result.cells} == {"", simulate}


def test_mistakes_are_refused_before_any_work(settings: EvaluateSettings, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown simulation 'gpu'; known: cpu, dali"):
        replace(settings, simulate="gpu")
    with pytest.raises(SettingsError, match="choose 1 to 100"):
        replace(settings, qualities=(None, 101))
    with pytest.raises(SettingsError, match="nothing to simulate"):
        replace(settings, qualities=(None,))
    with pytest.raises(SettingsError, match="loader 'cpu' is named, but simulation 'cpu' decodes by itself"):
        replace(settings, loader="cpu")
    bare = tmp_path / "things"
    write_variant(bare / "jpeg-q3", {"test": [[member(0, 40, 40)]]}, "jpeg", 3)
    with pytest.raises(SettingsError, match=r"has no source; there: jpeg-q3; make it with 'limla pack'"):
        evaluate(replace(settings, data_dir=bare, results_dir=tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_command_line(settings: EvaluateSettings, checkpoint: Path, data_dir: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir, "--output-dir", tmp_path]
    words += ["--simulate", "cpu", "--device", "cpu", "--batch-size", "4"]
    done = CliRunner().invoke(limla, [*map(str, words), "--quality", "source,3,40"])
    assert done.exit_code == 0, done.output
    assert [line.count("simulated: cpu") for line in done.stdout.splitlines() if "compact" in line] == [0, 1, 1]
    assert "limla simulation" in done.stdout
    kept = files_of(tmp_path)
    evaluate(replace(settings, attacks=("none",), defences=(), results_dir=tmp_path))
    assert files_of(tmp_path) == kept
    refused = CliRunner().invoke(limla, [*map(str, words)])
    assert refused.exit_code == 2
    assert "--simulate needs --quality" in refused.output


@pytest.mark.slow
def test_processes_share_a_simulated_pass(
    settings: EvaluateSettings, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Three batches for two processes: the files are those of one process."""
    evaluate(replace(settings, attacks=("fgsm", "pgd"), defences=(), results_dir=tmp_path / "alone"))
    more = ("--simulate", "cpu", "--quality", "source,3,40", "--batch-size", 4, "--steps", 2)
    done = torchrun(2, "evaluate", *words_for(data_dir, checkpoint, tmp_path / "shared", *more))
    assert done.returncode == 0, done.stderr
    assert len(files_of(tmp_path / "alone")) == 9
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
