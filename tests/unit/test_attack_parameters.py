"""What attacks are given: parameters, their checks, and what the grid shares among them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from limla.attacks.base import attack_norm, build_attack
from limla.attacks.checks import caution
from limla.errors import SettingsError, UnknownNameError
from limla.evaluation import EvaluateSettings, check_parameters_used
from limla.evaluation.grid import build_attacks
from limla.plans import AttackPlan, parse_attack

EPS = 8 / 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none:eps=0.1", "'none' takes no eps; it takes no parameters"),
        ("fgsm", "'fgsm' needs eps, the largest change of any value .* for example 8/255"),
        ("fgsm:eps=0.1,steps=3", "'fgsm' takes no steps; it takes eps"),
        ("fgsm:eps=0.1,steps=3,alpha=0.1", "takes no alpha and no steps"),
        ("fgsm:eps=8", "eps 8 of attack 'fgsm' is out of range.*8/255"),
        ("pgd:eps=-0.1", "eps -0.1"),
        ("pgd:eps=0.1,steps=0", "0 steps of attack 'pgd' are out of range: choose at least 1"),
        ("pgd:eps=0.1,steps=2.5", "steps of attack 'pgd' is 2.5: give a whole number"),
        ("pgd:eps=0.1,steps=true", "steps of attack 'pgd' is True: give a whole number"),
        ("pgd:eps=0.1,alpha=0", "alpha 0 .*length of a step on the .* scale .* choose above 0 to 1"),
        ("pgd:eps=0.1,alpha=-1", "alpha -1 "),
        ("pgd:eps=0.1,alpha=1.5", "alpha 1.5 "),
        ("pgd:eps=0.1,alpha=fast", "alpha of attack 'pgd' is 'fast': give a number"),
        ("pgd:eps=1.5,norm=l2,alpha=0", "alpha 0 of attack 'pgd' is out of range: choose a number above 0"),
        ("pgd:eps=0.1,norm=l1", "norm 'l1' of attack 'pgd' is unknown; known: linf, l2"),
        ("pgd:eps=0.1,norm=2", "norm of attack 'pgd' is 2: give a word"),
        ("pgd:norm=l2", "'pgd' needs eps, the Euclidean length of an image's whole change .* norm l2"),
        ("pgd:eps=-1,norm=l2", "eps -1 .* Euclidean length .* choose 0 or more"),
        ("pgd:eps=0.1,restarts=0", "0 restarts of attack 'pgd'"),
        ("pgd:eps=0.1,target=cat", "target 'cat' of attack 'pgd' is unknown; known: \"\", next, random"),
        ("mifgsm:eps=0.1,decay=-1", "decay -1 of attack 'mifgsm' is out of range: choose 0 or more"),
        ("mifgsm:eps=0.1,alpha=0", "alpha 0 of attack 'mifgsm'"),
        ("mifgsm:eps=0.1,norm=l2", "'mifgsm' takes no norm"),
        ("cw", "'cw' needs eps, the Euclidean length"),
        ("cw:eps=0.5,c=0", "c 0 of attack 'cw'"),
        ("cw:eps=0.5,kappa=-1", "kappa -1 of attack 'cw'"),
        ("cw:eps=0.5,lr=0", "lr 0 of attack 'cw'"),
        ("cw:eps=0.5,searches=0", "0 searches of attack 'cw'"),
        ("square:eps=0.1,n_queries=0", "0 n_queries of attack 'square'"),
        ("square:eps=0.1,p_init=0.9", "p_init 0.9 .* a share of the image, so choose above 0 to 0.8"),
        ("autoattack:eps=0.1,norm=l1", "norm 'l1' of attack 'autoattack'"),
        ("autoattack:eps=0.1,n_queries=0", "0 n_queries of attack 'autoattack'"),
        ("gaussian-noise:eps=0.1,norm=l0", "norm 'l0' of attack 'gaussian-noise'"),
        ("uniform-noise:eps=2", "eps 2 of attack 'uniform-noise' is out of range"),
    ],
)
def test_parameters_are_checked(text: str, message: str) -> None:
    plan = parse_attack(text)
    with pytest.raises(SettingsError, match=message) as caught:
        build_attack(plan.name, dict(plan.parameters))
    assert "\n" not in str(caught.value)


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"known: none, .*autoattack.* Did you mean 'mifgsm'"):
        build_attack("mifsgm", {"eps": EPS})


@pytest.mark.parametrize("eps", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_is_finite(norm: str, eps: float) -> None:
    with pytest.raises(SettingsError, match=f"eps {eps}"):
        build_attack("pgd", {"eps": eps, "norm": norm})


def test_records_of_the_first_pgd_stay_what_they_were() -> None:
    assert build_attack("pgd", {"eps": EPS}).settings() == {
        "alpha": 2 / 255,
        "random_start": True,
        "steps": 10,
    }
    plan = parse_attack("pgd:eps=2/255,norm=l2,restarts=2,target=next,steps=5,alpha=0.1")
    attack = build_attack(plan.name, dict(plan.parameters))
    assert (attack.norm, attack.eps) == ("l2", 2 / 255)
    assert attack.settings() == {
        "alpha": 0.1,
        "random_start": True,
        "restarts": 2,
        "steps": 5,
        "target": "next",
    }


def test_steps_in_l2_cross_the_ball_by_default() -> None:
    attack = build_attack("pgd", {"eps": 3.0, "norm": "l2", "steps": 20})
    assert attack.settings()["alpha"] == 2.5 * 3.0 / 20
    assert caution(attack) == ""


@pytest.mark.parametrize("text", ["pgd:eps=0.9,steps=1", "pgd:eps=0", "pgd:eps=0,norm=l2", "mifgsm:eps=0"])
def test_defaults_are_values_that_may_be_given(text: str) -> None:
    plan = parse_attack(text)
    attack = build_attack(plan.name, dict(plan.parameters))
    assert vars(build_attack(plan.name, attack.parameters())) == vars(attack)


@pytest.mark.parametrize(
    ("text", "num_gradients"),
    [
        ("none", 0),
        ("uniform-noise:eps=0.1", 0),
        ("fgsm:eps=0.1", 1),
        ("pgd:eps=0.1,steps=7", 7),
        ("pgd:eps=0.1,steps=7,restarts=3", 24),
        ("mifgsm:eps=0.1,steps=7", 7),
        ("cw:eps=0.5", 50),
        ("cw:eps=0.5,steps=20,searches=5", 100),
        ("square:eps=0.1,n_queries=10", 13),
        ("autoattack:eps=0.1", 7856),
    ],
)
def test_the_passes_of_an_image_are_told(text: str, num_gradients: int) -> None:
    plan = parse_attack(text)
    assert build_attack(plan.name, dict(plan.parameters)).num_gradients == num_gradients


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "pgd:eps=8/255,steps=2,alpha=1/255",
            "'pgd' (linf) .*: 2 steps of 1/255 cannot cross a ball of radius 8/255",
        ),
        ("mifgsm:eps=8/255,steps=3,alpha=2/255", "3 steps of 2/255 cannot cross a ball of radius 8/255"),
        (
            "pgd:eps=2.0,norm=l2,steps=5,alpha=0.1",
            "'pgd' (l2) .*: 5 steps of 0.1 cannot cross a ball of radius 2;",
        ),
        (
            "pgd:eps=1/255,alpha=2/255",
            "steps of 2/255 leap from side to side of a ball of radius 1/255; lower alpha",
        ),
        ("pgd:eps=1/255", ""),
        ("mifgsm:eps=3/255,steps=7", ""),
        ("fgsm:eps=3/255", ""),
        ("pgd:eps=8/255,steps=4,alpha=2/255", ""),
        ("cw:eps=5.0,steps=2", ""),
        ("autoattack:eps=0.3,steps=2", ""),
    ],
)
def test_steps_that_cannot_cross_the_ball_are_told(text: str, words: str) -> None:
    plan = parse_attack(text)
    line = caution(build_attack(plan.name, dict(plan.parameters)))
    assert bool(line) == bool(words)
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), line)


def grid(*attacks: str | AttackPlan, **given: Any) -> list[tuple[str, float, dict[str, Any]]]:
    settings = EvaluateSettings(Path(), Path(), checkpoints=(Path("best.pt"),), attacks=attacks, **given)
    return [(attack.name, attack.eps, attack.settings()) for attack in build_attacks(settings)[1:]]


def test_the_grids_eps_steps_and_alpha_go_to_the_attacks_they_are_meant_for() -> None:
    found = grid(
        "fgsm",
        "mifgsm",
        parse_attack("pgd:norm=l2,eps=0.5"),
        parse_attack("cw:eps=0.7"),
        parse_attack("autoattack:eps=1/255"),
        "square",
        eps=(2 / 255, 4 / 255),
        steps=5,
        alpha=1 / 255,
    )
    assert [(name, eps) for name, eps, _ in found] == [
        ("fgsm", 2 / 255),
        ("fgsm", 4 / 255),
        ("mifgsm", 2 / 255),
        ("mifgsm", 4 / 255),
        ("pgd", 0.5),
        ("cw", 0.7),
        ("autoattack", 1 / 255),
        ("square", 2 / 255),
        ("square", 4 / 255),
    ]
    settings = {name: parameters for name, _, parameters in found}
    assert (settings["mifgsm"]["steps"], settings["mifgsm"]["alpha"]) == (5, 1 / 255)
    assert (settings["pgd"]["steps"], settings["pgd"]["alpha"]) == (5, 0.25), "alpha is a change of one value"
    assert settings["cw"]["steps"] == 50
    assert settings["autoattack"]["steps"] == 100


@pytest.mark.parametrize("attack", ["cw", "pgd:norm=l2", "gaussian-noise:norm=l2"])
def test_a_length_is_never_taken_from_the_grids_eps(attack: str) -> None:
    with pytest.raises(SettingsError, match="needs eps, the Euclidean length"):
        grid(parse_attack(attack), eps=(8 / 255,))


def test_shared_parameters_that_none_takes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"steps is given, but no chosen attack takes it \(cw, fgsm\)"):
        check_parameters_used(("cw", "fgsm"), steps=10)
    check_parameters_used(("cw", "mifgsm"), steps=10)


def test_norms_are_told_before_eps_is_known() -> None:
    assert [attack_norm(name) for name in ("none", "fgsm", "cw")] == ["", "linf", "l2"]
    assert attack_norm("pgd", {"norm": "l2", "eps": 7}) == "l2"
