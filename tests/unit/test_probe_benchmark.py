"""The section of docs/results.md about probes holds what the probe gave."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from limla.registry import CODECS
from tests.toy import make_toy
from tests.unit import blocksigns

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_script_writes_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setitem(CODECS.plugs, blocksigns.NAME, blocksigns.PLUG)
    make_toy(tmp_path / "toy")
    output = tmp_path / "probe.json"
    options = ["--quality", "4", "--epochs", "1", "--seeds", "0", "--image-size", "32"]
    arguments = [str(tmp_path / "toy"), blocksigns.NAME, *options, "--output-dir", str(tmp_path / "out")]
    script = importlib.import_module("probe")
    done = CliRunner().invoke(script.main, [*arguments, "--output", str(output)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads(output.read_text())
    assert record["machine"]["num_cores"] >= 1
    assert record["command"].endswith("--quality 4 --epochs 1 --seeds 0 --image-size 32")
    page = "\n".join(importlib.import_module("probe_page").section(record))
    for row in record["rows"]:
        name = row["input"] if row["quality"] is None else f"{row['input']} q4"
        assert f"| {row['representation']} | {name} |" in page
        assert f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.0f}" in page
    different = sum(row["input"] == "codes" and row["p_holm"] < 0.05 for row in record["rows"])
    assert f"{different} of 4 probes of codes differ" in page


def test_without_a_measurement_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert "Not measured yet" in importlib.import_module("probe_page").section(None)[-1]
