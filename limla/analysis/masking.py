"""Sanity checks of an attack study: does the model look robust only because its gradients mislead the attacker?

The signs of gradient masking are those of Athalye, Carlini & Wagner (ICML 2018, section 3.1) and Carlini et al., "On
evaluating adversarial robustness" (arXiv 1902.06705, 2019). Each compares an attack that should be the stronger one
with one that should be the weaker one, on the same images: a check is *breached* only where the 95% interval of the
paired difference lies wholly on the wrong side. docs/definitions.md states every rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from limla.analysis.attacked import clean_slot, crop_side, failed, share
from limla.analysis.encodings import Variant
from limla.analysis.masking_rules import RULES, STATIC, Cells, Contest, Place, places
from limla.analysis.pairs import Evidence, common_runs
from limla.analysis.subjects import Attack
from limla.statistics import Interval, paired_difference

Verdict: TypeAlias = Literal["holds", "breached", "not tested"]

CHECKS: dict[str, str] = {
    "iterative": "an iterative attack is at least as strong as a single step",
    "eps": "success grows with eps",
    "large eps": "success reaches about 100% at a large eps",
    "black box": "no black-box attack beats the white-box ones",
    "noise": "noise is weaker than an attack",
    "steps": "more steps change next to nothing",
    "adaptive": "an attack that knows of the defence is at least as strong as one that does not",
}
"""Name → what is expected, in the order of the results."""

SUSPICION = "gradient masking suspected"
ABOUT_ALL = 0.95
"""The success rate that "large eps" asks for."""


@dataclass(frozen=True)
class MaskingCheck:
    """One sign of gradient masking, looked for in one place.

    Attributes:
        name: of `CHECKS`.
        dataset, split: of the evidence.
        subject: label of the model and its training.
        variant: (codec, quality) of the test images.
        defence: label, "" without; threat: what the attackers know of it.
        verdict: "holds" (no evidence against it), "breached" or "not tested".
        sentence: all of it in plain words; for "not tested" with what to run.
        stronger, weaker: the attacks compared, by what is expected of them; "" where nothing was compared.
        stronger_failed, weaker_failed: share of images on which each failed, in [0, 1]; None where not compared. Of
            "large eps" the share of the images that were right before, and 0.
        difference: stronger_failed − weaker_failed; above 0 is the wrong side. None where not compared.
        low, high: its 95% interval; None where there is none.
        num_images, num_seeds: compared.
        num_compared: comparisons of this kind in this place; of those that hold, the nearest to a breach is shown.
    """

    name: str
    dataset: str
    split: str
    subject: str
    variant: Variant
    defence: str
    threat: str
    verdict: Verdict
    sentence: str
    stronger: str = ""
    weaker: str = ""
    stronger_failed: float | None = None
    weaker_failed: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    num_images: int = 0
    num_seeds: int = 0
    num_compared: int = 0


MASKING_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("name", "dataset", "split", "subject", "test_codec")),
        pa.field("test_quality", pa.int32()),
        *(
            pa.field(name, pa.string())
            for name in ("defence", "threat", "verdict", "sentence", "stronger", "weaker")
        ),
        *(
            pa.field(name, pa.float64())
            for name in ("stronger_failed", "weaker_failed", "difference", "low", "high")
        ),
        *(pa.field(name, pa.int64()) for name in ("num_images", "num_seeds", "num_compared")),
    ]
)


def masking_checks(evidence: Evidence) -> list[MaskingCheck]:
    """Every check in every place where attacks were evaluated, in the order of `evidence` and of `CHECKS`.

    A place is a subject on one test variant: undefended, or behind a defence under a threat model that knows of it.
    Attacks that do not know of the defence say nothing about its gradients; they appear in "adaptive" alone. Each
    breach has an entry of its own; otherwise a check has one entry per place.
    """
    found: list[MaskingCheck] = []
    for place in places(evidence):
        cells = Cells(place)
        for name in CHECKS:
            if name == "adaptive":
                found += _checked(name, cells) if place.defence else []
            elif place.threat != STATIC:
                found += [_at_large_eps(cells)] if name == "large eps" else _checked(name, cells)
    return found


def breaches(checks: Iterable[MaskingCheck]) -> list[MaskingCheck]:
    """Those that are breached."""
    return [check for check in checks if check.verdict == "breached"]


def masking_table(checks: Iterable[MaskingCheck]) -> pa.Table:
    """MaskingChecks as an Arrow table of `MASKING_SCHEMA`."""
    rows: list[dict[str, Any]] = []
    for check in checks:
        codec, quality = check.variant
        rows.append({**asdict(check), "test_codec": codec, "test_quality": quality})
    return pa.Table.from_pylist(rows, schema=MASKING_SCHEMA)


def _checked(name: str, cells: Cells) -> list[MaskingCheck]:
    rule = RULES[name]
    judged = [check for pair in rule.compare(cells) if (check := _judged(name, cells.place, pair)) is not None]
    if not judged:
        return [_not_tested(name, cells.place, rule.remedy(cells))]
    # of those that hold, the one nearest to a breach stands for all
    shown = breaches(judged) or [max(judged, key=lambda check: check.difference or 0.0)]
    return [replace(check, num_compared=len(judged)) for check in shown]


def _not_tested(name: str, place: Place, remedy: str) -> MaskingCheck:
    return _check(name, place, "not tested", f"{place.text}: not tested that {CHECKS[name]}; {remedy}.")


def _check(name: str, place: Place, verdict: Verdict, sentence: str, **numbers: Any) -> MaskingCheck:
    return MaskingCheck(
        name=name,
        dataset=place.evidence.dataset,
        split=place.evidence.split,
        subject=place.subject.label,
        variant=place.variant,
        defence=place.defence.label if place.defence else "",
        threat=place.threat,
        verdict=verdict,
        sentence=sentence,
        **numbers,
    )


def _judged(name: str, place: Place, pair: Contest) -> MaskingCheck | None:
    """The paired comparison; None where the two have no checkpoint in common."""
    common = common_runs(pair.weaker[1], pair.stronger[1])
    if common is None:
        return None
    weaker, stronger = (failed(runs) for runs in common)
    found = paired_difference(weaker, stronger)
    # an end that is NaN (a single image) is on no side
    is_wrong = found.low > (pair.tolerance or 0.0) or (
        pair.tolerance is not None and found.high < -pair.tolerance
    )
    rates = float(stronger.mean()), float(weaker.mean())
    outcome = f"{pair.remark}: {SUSPICION}" if is_wrong else f"no evidence against the rule that {CHECKS[name]}"
    sentence = (
        f"{place.text}: {pair.stronger[0]} fails on {100 * rates[0]:.1f}% of the images and {pair.weaker[0]} on "
        f"{100 * rates[1]:.1f}%, {100 * found.difference:+.1f} points "
        f"{_range(Interval(found.low, found.high))} ({_amount(*stronger.shape)}); {outcome}."
    )
    has_interval = math.isfinite(found.low) and math.isfinite(found.high)
    return _check(
        name,
        place,
        "breached" if is_wrong else "holds",
        sentence,
        stronger=pair.stronger[0],
        weaker=pair.weaker[0],
        stronger_failed=rates[0],
        weaker_failed=rates[1],
        difference=found.difference,
        low=found.low if has_interval else None,
        high=found.high if has_interval else None,
        num_images=found.num_images,
        num_seeds=found.num_seeds,
    )


def _range(interval: Interval) -> str:
    return f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _amount(num_seeds: int, num_images: int) -> str:
    return f"n = {num_images}" + (f", {num_seeds} seeds" if num_seeds > 1 else "")


def _at_large_eps(cells: Cells) -> MaskingCheck:
    """The strongest attacks against what was right before them: one that succeeds everywhere is enough."""
    name, place = "large eps", cells.place
    judged: list[MaskingCheck] = []
    for attack in cells.of_kind("white-box"):
        before = place.evidence.runs.get(clean_slot(place.slot(attack)))
        common = common_runs(before, cells.runs[attack]) if before else None
        if common is not None and not cells.is_targeted[attack]:
            right_before, right_after = (runs.correct() for runs in common)
            rate, interval = share(~right_after, right_before)
            if not math.isnan(rate):
                amount = int(right_before.sum(axis=1).max()), len(right_before)
                judged.append(_judged_success(place, attack, rate, interval, amount))
    for verdict in ("holds", "breached"):
        of_verdict = [check for check in judged if check.verdict == verdict]
        if of_verdict:
            best = min(of_verdict, key=lambda check: check.stronger_failed or 0.0)
            return replace(best, num_compared=len(judged))
    return _not_tested(name, place, "add --attack pgd:eps=128/255,alpha=16/255,steps=40")


def _judged_success(
    place: Place, attack: Attack, rate: float, interval: Interval, amount: tuple[int, int]
) -> MaskingCheck:
    num_images, num_seeds = amount
    verdict: Verdict = "not tested"
    outcome = "at an eps too small to say more"
    if rate >= ABOUT_ALL:
        verdict, outcome = "holds", "as it should"
    elif _holds_gray(attack, place):
        is_wrong = interval.high < ABOUT_ALL
        verdict = "breached" if is_wrong else "holds"
        outcome = (
            f"and not about 100%, though within this eps every image can be made plain gray: {SUSPICION}"
            if is_wrong
            else "no evidence that it stays below about 100%"
        )
    sentence = (
        f"{place.text}: {attack.label} succeeds on {100 * rate:.1f}% of the images that were right before "
        f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}] ({_amount(num_seeds, num_images)}), {outcome}."
    )
    return _check(
        "large eps",
        place,
        verdict,
        sentence,
        stronger=attack.label,
        stronger_failed=1 - rate,
        weaker_failed=0.0,
        difference=1 - rate,
        low=1 - interval.high,
        high=1 - interval.low,
        num_images=num_images,
        num_seeds=num_seeds,
    )


def _holds_gray(attack: Attack, place: Place) -> bool:
    """Whether every image can be turned to plain mid-gray within eps: then no image is safe from a good attack."""
    if attack.norm == "linf":
        return attack.eps >= 0.5
    side = crop_side(place.subject.preprocessing)
    if attack.norm == "l2" and side is not None:
        return attack.eps >= 0.5 * math.sqrt(3 * side**2)
    return math.isinf(attack.eps)
