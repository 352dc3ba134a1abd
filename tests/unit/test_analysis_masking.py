"""Checks for gradient masking: each is breached, holds and is not tested on cells made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from limla.analysis.masking import (
    CHECKS,
    MASKING_SCHEMA,
    SUSPICION,
    MaskingCheck,
    breaches,
    masking_checks,
    masking_table,
)
from limla.plans import ATTACK_KNOWLEDGE, parse_attack
from tests.unit.trials import Cell, attacked, cell, defended, evidence, first

FGSM = attacked("fgsm")
PGD = attacked("pgd", steps=10, alpha=2 / 255, random_start=True)
CLEAN = cell(first(180))


def checks(*cells: Cell) -> dict[str, MaskingCheck]:
    """The checks of the only place there is, by name."""
    found = masking_checks(evidence(*cells))
    assert len({(check.subject, check.defence, check.threat) for check in found}) == 1
    assert [check.name for check in found] == [
        name for name in CHECKS if name in {check.name for check in found}
    ]
    return {check.name: check for check in found}


def test_a_study_without_masking_holds_throughout() -> None:
    found = checks(
        CLEAN,
        cell(first(60), FGSM),
        cell(first(10), PGD),
        cell(first(90), PGD | {"eps": 2 / 255}),
        cell(first(0), PGD | {"eps": 128 / 255}),
        cell(first(9), attacked("pgd", steps=40, random_start=True)),
        cell(first(40), attacked("square")),
        cell(first(175), attacked("uniform-noise")),
    )
    assert {name: check.verdict for name, check in found.items()} == {
        name: "holds" for name in CHECKS if name != "adaptive"
    }
    iterative = found["iterative"]
    # the numbers: PGD fails on 10 of 200, FGSM on 60 of 200; the other PGD is compared as well and lies farther off
    assert (iterative.stronger_failed, iterative.weaker_failed) == (10 / 200, 60 / 200)
    assert iterative.difference == pytest.approx(-50 / 200)
    assert iterative.low is not None
    assert iterative.high is not None
    assert iterative.low < -0.25 < iterative.high < 0
    assert (iterative.num_images, iterative.num_seeds, iterative.num_compared) == (200, 1, 2)
    assert SUSPICION not in " ".join(check.sentence for check in found.values())


BREACHES: dict[str, tuple[Sequence[Cell], str]] = {
    "iterative": ([cell(first(40), FGSM), cell(first(80), PGD)], "the iterative attack is the weaker one"),
    "eps": (
        [cell(first(40), FGSM), cell(first(80), attacked("fgsm", 16 / 255))],
        "the attack is weaker at the larger eps",
    ),
    "large eps": ([CLEAN, cell(first(60), attacked("pgd", 0.5, steps=10))], "plain gray"),
    "black box": ([cell(first(40), attacked("square")), cell(first(80), PGD)], "without gradients"),
    "noise": ([cell(first(40), attacked("gaussian-noise")), cell(first(80), PGD)], "noise beats"),
    "steps": (
        [cell(first(80), PGD), cell(first(40), attacked("pgd", steps=100, random_start=True))],
        "has not converged",
    ),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_sign_is_found(name: str) -> None:
    cells, words = BREACHES[name]
    found = checks(*cells)[name]
    assert found.verdict == "breached"
    assert words in found.sentence
    assert SUSPICION in found.sentence
    assert found.stronger != found.weaker


@pytest.mark.parametrize("name", ["iterative", "eps", "black box", "noise", "steps"])
def test_a_difference_within_chance_is_no_alarm(name: str) -> None:
    """Of 120 images the attack that should be stronger fails on 4 more: 12 that it loses, 8 that it wins."""
    weaker, stronger = first(40, 120), first(40, 120)
    stronger[40:52] = True
    stronger[:8] = False
    (one, _), (other, _) = BREACHES[name][0]
    cells = [(one, cell(weaker)[1]), (other, cell(stronger)[1])]
    found = checks(*cells)[name]
    assert found.verdict == "holds"
    assert found.difference is not None
    assert abs(found.difference) == pytest.approx(4 / 120)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high
    assert "no evidence against" in found.sentence


def test_what_was_not_tested_says_what_to_run() -> None:
    found = checks(cell(first(40), PGD))
    assert {check.verdict for check in found.values()} == {"not tested"}
    assert set(found) == set(CHECKS) - {"adaptive"}
    for check in found.values():
        assert (check.num_images, check.difference, check.low, check.stronger) == (0, None, None, "")
        assert "--attack" in check.sentence
    assert "--attack square:eps=8/255" in found["black box"].sentence
    # what it names can be typed
    words = [word.rstrip(".,") for check in found.values() for word in check.sentence.split()]
    attacks = [word for word in words if ":" in word and "=" in word]
    assert len(attacks) > 5
    for attack in attacks:
        assert attack.partition(":")[0] in ATTACK_KNOWLEDGE
        if attack.startswith("pgd"):
            assert parse_attack(attack).parameters


def test_an_attack_that_succeeds_nowhere_is_told_from_one_of_a_small_eps() -> None:
    """At 8/255 a robust model proves nothing; when plain gray is within reach it does."""
    small = checks(CLEAN, cell(first(100), PGD))["large eps"]
    assert small.verdict == "not tested"
    certain = checks(CLEAN, cell(first(0), PGD))["large eps"]
    assert certain.verdict == "holds"
    assert certain.sentence.count("100.0%") == 1
    # 10 of 11 right images fall: below 95%, but as good as chance
    few = checks(cell(first(11)), cell(first(1), attacked("fgsm", 0.5)))["large eps"]
    assert few.verdict == "holds"
    # of 64 pixels a side, the ball around any image holds gray from 0.5 · sqrt(3 · 64²) = 55.4 on
    for eps, verdict in ((55.3, "not tested"), (55.5, "breached")):
        l2 = attacked("pgd", eps, "l2", steps=10)
        assert checks(CLEAN, cell(first(100), l2))["large eps"].verdict == verdict


def test_more_steps_may_change_a_point_and_are_judged_to_both_sides() -> None:
    worse = attacked("pgd", steps=100, random_start=True)
    for number, verdict in ((80, "holds"), (79, "holds"), (40, "breached"), (120, "breached")):
        assert checks(cell(first(80), PGD), cell(first(number), worse))["steps"].verdict == verdict


def test_steps_and_eps_are_compared_among_attacks_that_are_alike_otherwise() -> None:
    """Restarts make an attack stronger; the length of a step may go with the number of steps, or with eps."""
    few = cell(first(20), attacked("pgd", steps=10, restarts=5, alpha=2 / 255))
    assert checks(few, cell(first(80), attacked("pgd", steps=40)))["steps"].verdict == "not tested"
    assert checks(few, cell(first(80), attacked("pgd", 16 / 255, steps=10)))["eps"].verdict == "not tested"
    shorter = attacked("pgd", steps=40, restarts=5, alpha=1 / 255)
    assert checks(few, cell(first(80), shorter))["steps"].verdict == "breached"
    longer = attacked("pgd", 16 / 255, steps=10, restarts=5, alpha=4 / 255)
    assert checks(few, cell(first(80), longer))["eps"].verdict == "breached"
    # two lengths of one number of steps: the stronger stands for both
    other = cell(first(90), attacked("pgd", steps=40, restarts=5, alpha=4 / 255))
    assert checks(few, cell(first(20), shorter), other)["steps"].verdict == "holds"


def test_attacks_bounded_otherwise_are_not_compared() -> None:
    for other in (attacked("pgd", 4 / 255, steps=10), attacked("pgd", norm="l2", steps=10)):
        assert checks(cell(first(40), FGSM), cell(first(80), other))["iterative"].verdict == "not tested"
    aimed = cell(first(80), PGD, targets=[(place + 1) % 10 for place in range(200)])
    assert checks(cell(first(40), FGSM), aimed)["iterative"].verdict == "not tested"


def test_a_targeted_attack_fails_where_its_target_is_not_predicted() -> None:
    """All images are wrong under both, so only the target tells the two apart."""
    labels = np.arange(200) % 10
    aims = (labels + 2) % 10
    hit = np.where(first(150), aims, (labels + 1) % 10)
    less = np.where(first(50), aims, (labels + 1) % 10)
    found = checks(
        cell(first(0), PGD, targets=aims.tolist(), predictions=hit),
        cell(first(0), PGD | {"eps": 16 / 255}, targets=aims.tolist(), predictions=less),
    )["eps"]
    assert found.verdict == "breached"
    assert (found.stronger_failed, found.weaker_failed) == (150 / 200, 50 / 200)


def test_several_breaches_of_one_kind_are_all_named() -> None:
    cells = [cell(first(40 * place), attacked("fgsm", place / 255)) for place in (1, 2, 3)]
    found = breaches(masking_checks(evidence(*cells)))
    assert [(check.name, check.num_compared) for check in found] == [("eps", 2), ("eps", 2)]


def test_steps_that_cannot_cross_the_ball_are_named_as_a_reason() -> None:
    short = attacked("pgd", steps=2, alpha=1 / 255)
    found = checks(cell(first(40), FGSM), cell(first(80), short))["iterative"]
    assert "its steps cannot cross a ball of 8/255" in found.sentence
    assert "cannot cross" not in checks(cell(first(40), FGSM), cell(first(80), PGD))["iterative"].sentence


def test_knowing_of_the_defence_must_not_weaken_an_attack() -> None:
    static, bpda = (defended(PGD, "50", threat) for threat in ("static", "bpda"))
    found = checks(cell(first(40), static), cell(first(80), bpda))["adaptive"]
    assert found.verdict == "breached"
    assert (found.defence, found.threat) == ("jpeg q50", "bpda")
    assert "behind jpeg q50 (bpda)" in found.sentence
    assert checks(cell(first(80), static), cell(first(40), bpda))["adaptive"].verdict == "holds"


def test_noise_stands_beside_the_attacks_of_every_threat_model() -> None:
    """It asks no model, so it is evaluated under one of them only."""
    noise = cell(first(40), defended(attacked("uniform-noise"), "50", "static"))
    bpda = defended(PGD, "50", "bpda")
    assert checks(noise, cell(first(80), bpda))["noise"].verdict == "breached"
    assert checks(noise, cell(first(20), bpda))["noise"].verdict == "holds"


def test_attacks_that_do_not_know_of_the_defence_are_not_judged_by_its_gradients() -> None:
    """FGSM carries through a codec better than PGD does: of a static attack that is no sign."""
    cells = [cell(first(40), defended(FGSM, "50", "static")), cell(first(80), defended(PGD, "50", "static"))]
    (found,) = masking_checks(evidence(*cells))
    assert (found.name, found.verdict) == ("adaptive", "not tested")
    assert "--threat static,bpda" in found.sentence
    drawn = [cell(first(40), defended(FGSM, "10+50", "static"))]
    (found,) = masking_checks(evidence(*drawn))
    assert "--threat static,eot-bpda" in found.sentence


def test_seeds_are_paired_and_only_those_that_both_have() -> None:
    cells = [cell(first(40 + seed), FGSM, seed=seed) for seed in range(3)]
    cells += [cell(first(80 + seed), PGD, seed=seed) for seed in (1, 2, 3)]
    found = checks(*cells)["iterative"]
    assert (found.verdict, found.num_seeds) == ("breached", 2)
    assert found.difference == pytest.approx(40 / 200)
    assert "n = 200, 2 seeds" in found.sentence


def test_nothing_attacked_nothing_to_check() -> None:
    assert masking_checks(evidence(CLEAN)) == []
    assert masking_checks(evidence(CLEAN, cell(first(170), attacked("uniform-noise")))) == []


def test_the_table_has_a_row_per_check() -> None:
    found = masking_checks(evidence(CLEAN, cell(first(40), FGSM), cell(first(80), PGD)))
    table = masking_table(found)
    assert table.schema == MASKING_SCHEMA
    assert table["verdict"].to_pylist() == [check.verdict for check in found]
    assert table["test_codec"].to_pylist() == ["source"] * len(found)
    assert masking_table([]).schema == MASKING_SCHEMA


def test_evaluate_prints_breaches_and_one_line_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    from limla.cli.evaluate import _show_masking

    _show_masking([cell(first(40), FGSM), cell(first(80), PGD)])
    warning, counts = capsys.readouterr().out.splitlines()
    assert warning.startswith("warning: ")
    assert warning.endswith(f"{SUSPICION}.")
    assert "0 hold, 1 breached, 5 not tested" in counts
    _show_masking([CLEAN])
    assert capsys.readouterr().out == ""
