"""Names as readers see them: attacks as the papers write them, training methods without long decimals."""

from __future__ import annotations

import pytest

from limla.analysis.subjects import attacks_of, method_text, subjects_of
from limla.files import canonical_json
from tests.unit.reported import condition


def label_of(name: str, norm: str, eps: float, **settings: object) -> str:
    """The label of one attack alone."""
    made = condition(None, (name, norm, eps, canonical_json(settings)))
    return attacks_of([made])[made].label


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (("fgsm", "linf", 8 / 255), "FGSM, ε = 8/255"),
        (("square", "linf", 8 / 255), "Square, ε = 8/255"),
        (("square", "l2", 0.5), "Square (L2), ε = 0.5"),
        (("uniform-noise", "linf", 8 / 255), "uniform noise, ε = 8/255"),
        (("gaussian-noise", "linf", 0.1), "Gaussian noise, ε = 0.1"),
        (("their-own", "linf", 0.1), "their-own, ε = 0.1"),
    ],
)
def test_attacks_are_written_as_the_papers_do(attack: tuple[str, str, float], expected: str) -> None:
    assert label_of(*attack) == expected


def test_steps_are_part_of_the_names_that_are_given_with_them() -> None:
    assert label_of("pgd", "l2", 0.5, steps=10) == "PGD-10 (L2), ε = 0.5"
    assert label_of("pgd", "l2", 0.5, steps=10, target="next") == "targeted PGD-10 (L2), ε = 0.5"
    assert label_of("mifgsm", "linf", 8 / 255, steps=5) == "MI-FGSM-5, ε = 8/255"
    assert label_of("cw", "l2", 0.5, steps=50) == "CW (L2), ε = 0.5"
    assert label_of("autoattack", "linf", 8 / 255, steps=100) == "AutoAttack, ε = 8/255"


def test_what_a_name_leaves_out_tells_two_attacks_apart() -> None:
    cells = [condition(None, ("cw", "l2", 0.5, canonical_json({"steps": steps}))) for steps in (50, 9)]
    assert [attack.label for attack in attacks_of(cells).values()] == [
        "CW (L2), ε = 0.5 (steps 50)",
        "CW (L2), ε = 0.5 (steps 9)",
    ]


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("pgd linf eps=8/255 steps=7 alpha=2/255", "pgd linf eps=8/255 steps=7 alpha=2/255"),
        ("pgd linf eps=4/255 steps=3 alpha=0.006535947712418301", "pgd linf eps=4/255 steps=3 alpha=0.006536"),
        ("pgd linf eps=0.03 steps=3 alpha=0.0078431372549019", "pgd linf eps=0.03 steps=3 alpha=2/255"),
        ("pgd linf eps=2.5/255 alpha=1.2345678e-05", "pgd linf eps=2.5/255 alpha=1.235e-05"),
        ("random jpeg quality 10-90:10,source", "random jpeg quality 10-90:10,source"),
    ],
)
def test_long_decimals_of_a_training_are_shortened(recorded: str, shown: str) -> None:
    assert method_text(recorded) == shown


def test_the_subject_keeps_the_method_as_it_was_recorded() -> None:
    method = "pgd linf eps=4/255 steps=3 alpha=0.006535947712418301"
    made = condition(None, train_method=method)
    subject = subjects_of([made])[made]
    assert subject.train_method == method
    assert subject.label == "MobileNetV2 · originals, pgd linf eps=4/255 steps=3 alpha=0.006536"
    assert subject.who == "MobileNetV2"
    # two that differ beyond the digits shown stay apart
    other = condition(None, train_method=f"{method[:-1]}9", checkpoint_id="other")
    assert len({one.label for one in subjects_of([made, other]).values()}) == 2
