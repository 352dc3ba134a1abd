"""Which cells a grid has: each condition once, none that only says the same under another name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.cli.evaluate import _training
from limla.errors import SettingsError
from limla.evaluation import EvaluateSettings
from limla.evaluation.grid import build_attacks, plan_cells
from limla.plans import AttackPlan, DefencePlan, parse_attack
from tests.unit.reported import NONE, condition

NOISE = parse_attack("uniform-noise:eps=4/255")


def settings(*attacks: str | AttackPlan, **given: Any) -> EvaluateSettings:
    return EvaluateSettings(Path(), Path(), checkpoints=(Path("best.pt"),), attacks=attacks, **given)


@pytest.mark.parametrize(
    ("defence", "of_noise"),
    [
        (DefencePlan("jpeg", (50,), ("bpda", "static", "differentiable")), "static"),
        (DefencePlan("jpeg", (10, 50), ("eot-differentiable", "eot-bpda")), "eot-differentiable"),
    ],
)
def test_noise_has_one_cell_whatever_its_maker_knows(defence: DefencePlan, of_noise: str) -> None:
    cells = plan_cells(settings("fgsm", NOISE, defences=(defence,)))
    found = [(cell.attack.name, cell.threat) for cell in cells if cell.defence is not None]
    assert found == [
        ("none", ""),
        *(("fgsm", threat) for threat in defence.threats),
        ("uniform-noise", of_noise),
    ]


def test_attacks_that_are_equal_once_built_are_one() -> None:
    attacks = build_attacks(settings("pgd", parse_attack("pgd:steps=10,eps=8/255"), "fgsm"))
    assert [attack.name for attack in attacks] == ["none", "pgd", "fgsm"]
    assert len(build_attacks(settings("pgd", parse_attack("pgd:steps=11"), parse_attack("pgd:eps=1/255")))) == 4


def test_a_threat_model_named_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"jpeg:50: a threat model is named twice \(bpda, bpda\)"):
        DefencePlan("jpeg", (50,), ("bpda", "bpda"))


@pytest.mark.parametrize(
    ("options", "missing"), [(["--attack", "fgsm"], "no --defence"), (["--defence", "jpeg:10"], "no attack")]
)
def test_a_threat_model_of_nothing_is_refused(tmp_path: Path, options: list[str], missing: str) -> None:
    words = ["evaluate", "--checkpoint", "best.pt", "--data-dir", tmp_path, "--output-dir", tmp_path / "out"]
    done = CliRunner().invoke(limla, [*map(str, words), *options, "--threat", "bpda"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"--threat is given, but {missing}" in done.stderr


def test_the_table_tells_models_trained_in_other_ways_apart() -> None:
    made = condition(10, NONE)
    assert _training(made) == made.train_quality
    method = "pgd linf eps=8/255 steps=7 alpha=2/255"
    assert _training(replace(made, train_method=method)) == f"{made.train_quality}, {method}"
