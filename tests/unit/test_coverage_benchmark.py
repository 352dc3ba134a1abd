"""The simulation behind docs/statistics.md: its draws, a small version of what it found, and that the page holds it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which imports its neighbours in benchmarks/; not the package of its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_draws_are_what_the_setting_says(coverage: ModuleType) -> None:
    generator = np.random.default_rng(0)
    setting = coverage.Setting(3, 20_000, 0.9, 0.05, effect=-0.0125)
    before, after = coverage.draw(setting, generator)
    assert before.shape == after.shape == (3, 20_000)
    assert before.mean() == pytest.approx(0.9, abs=0.006)
    assert (before != after).mean() == pytest.approx(0.05, abs=0.006)
    assert after.mean() - before.mean() == pytest.approx(-0.0125, abs=0.004)
    # images keep their difficulty under all seeds
    assert np.corrcoef(before[0], before[1])[0, 1] > 0.3
    views, _ = coverage.draw(coverage.Setting(1, 5_000, 0.9, 0.05, num_views=2), generator)
    assert np.corrcoef(views[0, ::2], views[0, 1::2])[0, 1] > 0.3
    # seeds: the mean stays, the spread is the given one
    spread = coverage.Setting(400, 2_000, 0.9, 0.05, seed_sd=0.02)
    before, after = coverage.draw(spread, generator)
    shifts = after.mean(axis=1) - before.mean(axis=1)
    assert shifts.mean() == pytest.approx(0, abs=0.004)
    assert shifts.std() == pytest.approx(0.02, abs=0.004)


NUM_TRIALS = 1000


def bounds(lowest: float, highest: float) -> tuple[float, float]:
    """Shares that NUM_TRIALS studies show when the true one lies between these two, but for 3 standard errors."""
    low, high = (3 * (share * (1 - share) / NUM_TRIALS) ** 0.5 for share in (lowest, highest))
    return lowest - low, highest + high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_seeds", "num_images", "accuracy", "flip_rate", "seed_sd"),
    [
        (1, 120, 0.6, 0.15, 0.0),
        (1, 600, 0.9, 0.05, 0.0),
        (3, 120, 0.6, 0.15, 0.0),
        (3, 600, 0.9, 0.05, 0.0),
        (3, 600, 0.6, 0.15, 0.01),
        (5, 600, 0.9, 0.02, 0.005),
    ],
)
def test_intervals_hold_the_truth_and_tests_see_nothing_where_nothing_is(
    coverage: ModuleType, num_seeds: int, num_images: int, accuracy: float, flip_rate: float, seed_sd: float
) -> None:
    setting = coverage.Setting(num_seeds, num_images, accuracy, flip_rate, seed_sd=seed_sd)
    found = coverage.judge(setting, NUM_TRIALS)
    low, high = bounds(0.93, 0.97)
    assert low <= found["coverage"] <= high
    assert 1 - high <= found["interval_excludes_0"] <= 1 - low
    assert 0.01 <= found["p_below_0.05"] <= bounds(0.05, 0.05)[1]
    # the margin is a quarter of the flip rate and there is no loss: "exceeds" would be wrong
    assert found["exceeds"] <= bounds(0.025, 0.025)[1]


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_few_flips_err_on_the_safe_side(coverage: ModuleType, num_seeds: int) -> None:
    setting = coverage.Setting(num_seeds, 120, 0.9, 0.02, effect=-0.005)
    found = coverage.judge(setting, NUM_TRIALS)
    assert found["coverage"] >= bounds(0.95, 0.95)[0]
    # the margin is the true loss: "within" and "exceeds" are both wrong, 2.5% of the time each
    assert found["within"] <= bounds(0.025, 0.025)[1]
    assert found["exceeds"] <= bounds(0.025, 0.025)[1]
    nothing = coverage.judge(coverage.Setting(num_seeds, 120, 0.9, 0.02), NUM_TRIALS)
    assert nothing["p_below_0.05"] <= bounds(0.05, 0.05)[1]


def test_the_other_intervals_hold_the_truth_mostly(coverage: ModuleType) -> None:
    """A few draws only: that the truth they are judged by is the truth."""
    calibration = coverage.judge_calibration(600, 0.05, 40)
    assert calibration["truth"] == pytest.approx(0.05, abs=0.001)
    assert calibration["mean_value"] > calibration["truth"]
    assert calibration["coverage"] >= 0.8
    deltas = coverage.judge_deltas(3, 120, 0.01, 4)
    assert deltas["coverage_score"] >= 0.5
    assert deltas["shown_score"] == 1


def test_the_command_writes_the_json_and_the_tables_in_their_place(
    coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{coverage.MARK}\nstale\n{coverage.MARK}\nafter\n")
    few = [coverage.Setting(1, 30, 0.9, 0.05, effect=effect) for effect in (0.0, -0.01)]
    monkeypatch.setattr(coverage, "settings", lambda: few)
    words = [
        "--trials",
        "2",
        "--curves",
        "1",
        "--jobs",
        "1",
        "--output",
        str(tmp_path / "found.json"),
        "--page",
        str(page),
    ]
    done = CliRunner().invoke(coverage.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "found.json").read_text())
    assert (len(data["paired"]), len(data["calibration"]), len(data["deltas"])) == (2, 6, 6)
    assert {"scipy", "statsmodels", "bjontegaard"} <= data["machine"]["versions"].keys()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    assert coverage.markdown(data) in text


def test_the_page_holds_what_the_committed_run_gave(coverage: ModuleType) -> None:
    data = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text(encoding="utf-8"))
    assert coverage.markdown(data) in (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert len(data["paired"]) == len(coverage.settings())
