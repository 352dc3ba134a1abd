"""The time that is left: by kind, per image, whatever dataset or model was timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limla.errors import DataError
from limla.running.times import (
    CellKind,
    Timing,
    cell_seconds,
    model_seconds,
    read_timings,
    training_seconds,
)

CLEAN = CellKind("small", "none", 0, "", 0)
PGD = CellKind("small", "pgd", 10, "", 0)


def line(**changes: Any) -> str:
    told = {"model": "small", "attack": "pgd", "num_gradients": 10, "num_samples": 20, "seconds_computing": 4.0}
    return json.dumps({**told, **changes})


def test_timings_are_read_of_any_version(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    assert read_timings(path) == []
    path.write_text(f"{line(threat='bpda', defence='jpeg:50')}\n{line()}\n", encoding="utf-8")
    assert read_timings(path) == [
        Timing(CellKind("small", "pgd", 10, "bpda", 1), 20, 4.0),
        Timing(PGD, 20, 4.0),
    ]


@pytest.mark.parametrize("second", [line()[:40], line() + line(), "[]", "{}", line(num_samples="many")])
def test_a_damaged_line_is_named(tmp_path: Path, second: str) -> None:
    path = tmp_path / "timings.jsonl"
    path.write_text(f"{line()}\n{second}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"timings\.jsonl, line 2: damaged .*remove the line"):
        read_timings(path)


def test_cells_take_the_time_of_their_kind_per_image() -> None:
    timings = [Timing(CLEAN, 100, 1.0), Timing(CLEAN, 100, 3.0), Timing(PGD, 10, 4.0)]
    assert cell_seconds([], timings) == 0
    assert cell_seconds([(CLEAN, 100)], []) is None
    assert cell_seconds([(CLEAN, 100), (CLEAN, 1000), (PGD, 5)], timings) == pytest.approx(2 + 20 + 2)
    # 70 images in the mean, while nobody knows how many there are
    assert cell_seconds([(CLEAN, None)], timings) == pytest.approx(0.02 * 70)


def test_unknown_kinds_take_their_passes_through_the_model() -> None:
    timings = [Timing(CLEAN, 100, 1.0), Timing(CLEAN._replace(model="large"), 100, 9.0)]
    assert cell_seconds([(PGD, 100)], timings) == pytest.approx(11 * 1.0)
    assert cell_seconds([(PGD._replace(model="large"), 100)], timings) == pytest.approx(11 * 9.0)
    assert cell_seconds([(PGD._replace(model="other"), 100)], timings) == pytest.approx(11 * 5.0)
    # behind a defence that the attacker does not know of, the images are those of the bare model's attack
    static = PGD._replace(threat="static", num_qualities=1)
    assert cell_seconds([(static, 100)], timings) == pytest.approx(1.0)
    drawn = PGD._replace(threat="eot-bpda", num_qualities=3)
    assert cell_seconds([(drawn, 100)], timings) == pytest.approx(31 * 1.0)


def test_models_take_the_time_of_their_kind() -> None:
    finished = [("standard", 10.0), ("standard", 20.0), ("adversarial", 120.0)]
    assert model_seconds(["standard", "adversarial", "other"], finished) == 15 + 120 + 50
    assert model_seconds([], []) == 0
    assert model_seconds(["standard"], []) is None


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,seconds\n1,2.5\n2,0.5\n", encoding="utf-8")
    assert training_seconds(tmp_path) == 3.0
    path.write_text("epoch,seconds\n1,2.5\n2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"history\.csv: damaged"):
        training_seconds(tmp_path)
