"""The findings: sentences whose numbers are known, and nothing claimed that the rows do not carry."""

from __future__ import annotations

import re

import pytest

from limla.reporting.analysed import Analysed, analyse
from limla.reporting.findings import Topic, topics
from tests.unit.trials import Cell, attacked, cell, defended, evidence, first

NUM = 1000
PGD = attacked("pgd", steps=10)
TRAINED_Q10 = {"train_codec": "jpeg", "train_quality": "10"}


def found(*cells: Cell, margin: float = 0.01) -> dict[str, Topic]:
    """The topics by title."""
    return {topic.title: topic for topic in topics(analyse(evidence(*cells), margin))}


def said(topics_by_title: dict[str, Topic], title: str) -> list[str]:
    """The sentences of a topic."""
    return [finding.text for finding in topics_by_title[title].findings]


def clean(number: int, quality: int | None = None, **changes: object) -> Cell:
    """Of NUM images the first `number` are right."""
    return cell(first(number, NUM), quality=quality, **changes)  # type: ignore[arg-type]


def behind(number: int, quality: str, threat: str, fields: dict[str, object]) -> Cell:
    """A defended cell on the originals."""
    return cell(first(number, NUM), defended(fields, quality, threat if fields.get("attack") else ""))


def test_without_a_pair_there_is_nothing_to_say() -> None:
    assert found(clean(900)) == {}
    assert topics(Analysed(0.01)) == []


def test_limits_are_told_with_their_number_of_images() -> None:
    topic = found(clean(900), clean(899, 50), clean(800, 10))["How far images can be compressed"]
    (finding,) = topic.findings
    assert "store jpeg at quality 50 or better" in finding.text
    assert "on 1,000 test images" in finding.text
    assert "quality 10 loses more (10.0 points lost" in finding.text
    assert finding.anchor == "limits"


def test_the_margin_decides() -> None:
    cells = (clean(900), clean(880, 50))
    (strict,) = said(found(*cells, margin=0.01), "How far images can be compressed")
    (loose,) = said(found(*cells, margin=0.05), "How far images can be compressed")
    assert "no tested quality of jpeg loses less than 1 point" in strict
    assert "store jpeg at quality 50 or better" in loose


def test_training_is_told_where_it_differs_and_with_its_sign() -> None:
    other = {"checkpoint_id": "other", **TRAINED_Q10}
    cells = [clean(900), clean(500, 10), clean(700, None, **other), clean(800, 10, **other)]
    sentences = said(found(*cells), "What training under compression changes")
    assert len(sentences) == 2
    assert sentences[0].startswith(
        "Training MobileNetV2 on jpeg q10 instead of originals raises accuracy on jpeg q10 from 50.0% to 80.0%: "
        "+30.0 points ["
    )
    assert "n = 1,000, p < 0.001 after Holm’s correction." in sentences[0]
    assert "lowers accuracy on the originals from 90.0% to 70.0%: −20.0 points [" in sentences[1]


def test_training_without_a_difference_says_what_would_go_unseen() -> None:
    other = {"checkpoint_id": "other", **TRAINED_Q10}
    (sentence,) = said(found(clean(900), clean(899, None, **other)), "What training under compression changes")
    assert (
        "shows no difference after Holm’s correction, in 1 comparison (n = 1,000); differences below about "
        in sentence
    )


def test_where_no_difference_of_any_size_would_be_found_that_is_said() -> None:
    other = {"checkpoint_id": "other", **TRAINED_Q10}
    few = found(cell(first(5, 8)), cell(first(2, 8), **other))
    (training,) = said(few, "What training under compression changes")
    assert training.endswith("in 1 comparison (n = 8); differences of any size would go unseen.")
    assert said(few, "What these images cannot tell")[0].endswith(
        "0 of 1 (n = 8). None of them would find a difference of any size with 80% power."
    )
    # the seeds agree at q50; at q10 one loses nothing, the other nearly all
    right = {(None, 0): 45, (None, 1): 45, (50, 0): 44, (50, 1): 44, (10, 0): 45, (10, 1): 2}
    two = [cell(first(number, 60), quality=quality, seed=seed) for (quality, seed), number in right.items()]
    assert (
        "1 of them would find no difference of any size"
        in said(found(*two), "What these images cannot tell")[1]
    )


def test_few_seeds_that_differ_are_told() -> None:
    title = "What these images cannot tell"
    # the seeds lose alike at q50; at q10 one loses 10 points, the other 50
    right = {(None, 0): 90, (None, 1): 90, (50, 0): 85, (50, 1): 85, (10, 0): 80, (10, 1): 40}
    cells = [cell(first(number, 100), quality=quality, seed=seed) for (quality, seed), number in right.items()]
    assert (
        "1 of 2 comparisons rests on 2 seeds that differ: the interval is then about other trainings, and very wide; "
        "more seeds narrow it, more images do not."
    ) in said(found(*cells), title)
    third = [cell(first(90, 100), seed=2), cell(first(60, 100), quality=10, seed=2)]
    assert (
        "rests on 3 seeds that differ: the interval is then about other trainings, and wide; more"
        in " ".join(said(found(*cells, *third), title))
    )
    assert "seeds that differ" not in " ".join(said(found(*cells[:4]), title))
    assert "seeds that differ" not in " ".join(said(found(clean(900), clean(800, 10)), title))


DEFENCE = "Whether compression defends"


def test_a_static_attacker_alone_is_no_evidence_of_a_defence() -> None:
    cells = [
        clean(900),
        cell(first(100, NUM), PGD),
        behind(880, "50", "", {}),
        behind(600, "50", "static", PGD),
    ]
    (sentence,) = said(found(*cells), DEFENCE)
    assert "10.0 [8.3, 12.0]% correct without a defence; behind jpeg q50, 60.0 [" in sentence
    assert "so this is no evidence that it defends" in sentence
    assert "Clean accuracy: 90.0 [" in sentence
    assert "88.0 [" in sentence


def test_the_strongest_attacker_decides_and_the_missing_one_is_named() -> None:
    cells = [
        clean(900),
        cell(first(100, NUM), PGD),
        behind(600, "50", "static", PGD),
        behind(300, "50", "bpda", PGD),
        # gains more, but nobody who knows of it was tried
        behind(800, "10+90", "static", PGD),
    ]
    (sentence,) = said(found(*cells), DEFENCE)
    assert (
        "behind jpeg q50, the only one that met an attacker of the strongest kind evaluated, 60.0 [" in sentence
    )
    assert "; but 30.0 [" in sentence
    assert "% (bpda) against one who does (n = 1,000)." in sentence
    assert "Against the strongest attacker evaluated (bpda) it gains +20.0 [" in sentence
    assert re.search(r"so not ranked: jpeg q10\+90 at random \(static; 80\.0 \[[^]]*\]%\)\.$", sentence)
    assert "An attacker with a differentiable model of the codec was not evaluated." in sentence
    (complete,) = said(found(*cells, behind(110, "50", "differentiable", PGD)), DEFENCE)
    assert re.search(
        r"; but 30\.0 \[[^]]*\]% \(bpda\) and 11\.0 \[[^]]*\]% \(differentiable\) against one who", complete
    )
    assert "was not evaluated" not in complete


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (100, "Against the strongest attacker evaluated (bpda): 0.0 ["),
        (10, "It makes the model weaker against the strongest attacker evaluated (bpda): −9.0 ["),
    ],
)
def test_a_defence_that_gains_nothing(left: int, expected: str) -> None:
    cells = [clean(900), cell(first(100, NUM), PGD), behind(left, "50", "bpda", PGD)]
    (sentence,) = said(found(*cells), DEFENCE)
    assert expected in sentence
    assert "% (bpda) against an attacker who knows of it (n = 1,000)." in sentence


def test_a_difference_that_holms_correction_takes_is_not_called_none() -> None:
    cells = [clean(900, quality) for quality in (None, 90, 75, 50, 10)]
    # 8 gained, none lost: p = 2 / 2⁸ = 0.008; of 5 comparisons the smallest p, so 0.039, of 7 it is 0.055
    cells += [cell(first(100, NUM), PGD), behind(108, "50", "bpda", PGD), clean(900, 30), clean(900, 5)]
    (sentence,) = said(found(*cells), DEFENCE)
    assert re.search(
        r"evaluated \(bpda\): \+0\.8 \[[^]]*\] points by the defence, p = 0\.008; after Holm’s correction over 7 "
        r"comparisons that is not shown to be a difference \(p = 0\.055\)\.",
        sentence,
    )


def test_a_defence_that_met_weaker_attackers_does_not_win() -> None:
    cells = [
        clean(900),
        cell(first(100, NUM), PGD),
        behind(700, "10", "static", PGD),
        behind(600, "10", "bpda", PGD),
        behind(300, "10+75", "eot-bpda", PGD),
        behind(200, "10+75", "eot-differentiable", PGD),
    ]
    (sentence,) = said(found(*cells), DEFENCE)
    assert "behind jpeg q10+75 at random, the only one that met an attacker of the strongest kind" in sentence
    assert re.search(
        r", 30\.0 [^%]*% \(eot-bpda\) and 20\.0 [^%]*% \(eot-differentiable\) against an att", sentence
    )
    assert re.search(
        r"weaker attackers only, so not ranked: jpeg q10 \(static, bpda; 60\.0 [^%]*%\)\.$", sentence
    )
    (ranked,) = said(found(*cells, behind(250, "50", "differentiable", PGD)), DEFENCE)
    assert (
        "behind jpeg q50, the best of 2 that met an attacker of the strongest kind evaluated, 25.0 [" in ranked
    )
    (alike,) = said(found(*cells[:4], behind(650, "90", "bpda", PGD)), DEFENCE)
    assert "behind jpeg q90, the best of 2 evaluated, 65.0 [" in alike


def test_noise_knows_of_nothing_so_nothing_is_said_about_what_it_knows() -> None:
    noise = attacked("uniform-noise")
    cells = [clean(900), cell(first(100, NUM), noise), behind(600, "50", "static", noise)]
    (sentence,) = said(found(*cells), DEFENCE)
    assert "behind jpeg q50, 60.0 [" in sentence
    assert "points against noise, which is no attack." in sentence
    assert "attacker" not in sentence


def test_targeted_attacks_are_named_so() -> None:
    aimed = attacked("pgd", steps=10, alpha=2 / 255, target="next")
    cells = [clean(900), cell(first(100, NUM), PGD), cell(first(700, NUM), aimed)]
    labels = {slot.attack.label for slot in evidence(*cells).runs if not slot.attack.is_none}
    assert labels == {"PGD-10, ε = 8/255", "targeted PGD-10, ε = 8/255"}


def test_masking_raises_an_alarm_with_its_number_and_place() -> None:
    cells = [clean(900), cell(first(100, NUM), attacked("fgsm")), cell(first(400, NUM), PGD)]
    topic = found(*cells)["Gradient masking suspected"]
    assert topic.is_alarm
    assert "for gradient masking is breached" in topic.findings[0].text
    assert "an iterative attack is at least as strong as a single step (1)" in topic.findings[0].text
    assert "fails on 40.0% of the images" in topic.findings[1].text
    stronger = [clean(900), cell(first(400, NUM), attacked("fgsm")), cell(first(100, NUM), PGD)]
    assert "Gradient masking suspected" not in found(*stronger)


def test_what_cannot_be_told_is_told() -> None:
    topic = found(clean(900), clean(895, 50), cell(first(100, NUM), PGD))["What these images cannot tell"]
    texts = [finding.text for finding in topic.findings]
    assert any(
        "No limit within 1 point could be told for 1 of 1 pair of model and codec." in text for text in texts
    )
    assert any("after Holm’s correction: 0 of 1 (n = 1,000)." in text for text in texts)
    assert any("checks for gradient masking could not be made" in text for text in texts)


def test_one_smallest_difference_is_no_range() -> None:
    title = "What these images cannot tell"
    one, several = (
        next(text for text in said(found(*cells), title) if "80% power" in text)
        for cells in ((clean(900), clean(899, 50)), (clean(900), clean(899, 50), clean(500, 10)))
    )
    assert re.search(r"80% power is [\d.]+ points, without a correction\.$", one)
    assert re.search(r"80% power is [\d.]+ to [\d.]+ points, without a correction\.$", several)
