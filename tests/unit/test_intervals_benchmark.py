"""The simulation behind docs/report.md: its draws, its counting, and that the page holds what it gave."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def intervals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which imports its neighbours in benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("intervals")


def test_the_draws_are_right_in_the_given_share_and_even_elsewhere(intervals: ModuleType) -> None:
    generator = np.random.default_rng(0)
    drawn = np.sum([intervals.draw_confusion(generator, 1000, 4, 0.7) for _ in range(100)], axis=0)
    assert drawn.sum() == 100_000
    assert np.allclose(np.diagonal(drawn), 100_000 * 0.7 / 4, rtol=0.05)
    assert np.allclose(drawn[~np.eye(4, dtype=bool)], 100_000 * 0.3 / 12, rtol=0.1)


def test_coverage_counts_the_intervals_that_hold_the_truth(
    intervals: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([(0.8, 1.0), (0.95, 1.0), (math.nan, math.nan), (0.9, 0.9), (0.5, 0.89)])
    monkeypatch.setattr(intervals, "proportion_interval", lambda *_: next(ends))
    accuracy = intervals.simulate(num_images=30, num_classes=5, share_right=0.9, num_trials=5)[0]
    assert (accuracy["metric"], accuracy["coverage"], accuracy["shown"]) == ("accuracy", 0.5, 0.8)
    assert accuracy["mean_width"] == pytest.approx((0.2 + 0.05 + 0.39) / 4)


def test_where_all_are_right_the_macro_scores_have_no_interval(intervals: ModuleType) -> None:
    accuracy, *macro = intervals.simulate(num_images=30, num_classes=5, share_right=1.0, num_trials=3)
    assert accuracy["shown"] == 1
    assert [(row["shown"], row["coverage"], row["mean_width"]) for row in macro] == [(0, None, None)] * 3


def test_the_command_writes_the_json_and_the_table_in_its_place(intervals: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{intervals.MARK}\nold\n{intervals.MARK}\nafter\n")
    words = ["--trials", "2", "--output", str(tmp_path / "found.json"), "--page", str(page)]
    done = CliRunner().invoke(intervals.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "found.json").read_text())
    assert len(data["rows"]) == len(intervals.NUM_IMAGES) * len(intervals.SHARES_RIGHT) * len(intervals.METRICS)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert intervals.markdown(data) in text


def test_the_page_holds_what_the_committed_run_gave(intervals: ModuleType) -> None:
    data = json.loads((ROOT / "benchmarks" / "results" / "intervals.json").read_text(encoding="utf-8"))
    assert intervals.markdown(data) in (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
