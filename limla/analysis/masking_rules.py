"""Which attacks the checks for gradient masking compare, and what to run where there is nothing to compare."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from limla.analysis.attacked import failed, targets
from limla.analysis.encodings import Variant
from limla.analysis.pairs import Defence, Evidence, Runs, Slot
from limla.analysis.subjects import Attack, Subject, eps_text, variant_text
from limla.plans import ATTACK_KNOWLEDGE

STATIC = "static"
SINGLE_STEP = ("fgsm",)
NOISES = ("uniform-noise", "gaussian-noise")


@dataclass(frozen=True)
class Place:
    """Where checks are made: a subject on one test variant, undefended or under one threat model."""

    evidence: Evidence
    subject: Subject
    variant: Variant
    defence: Defence | None
    threat: str

    @property
    def text(self) -> str:
        """ "MobileNetV2 · originals on jpeg q50 behind jpeg q10 (bpda)"."""
        defended = f" behind {self.defence.label} ({self.threat})" if self.defence else ""
        return f"{self.subject.label} on {variant_text(self.variant)}{defended}"

    def slot(self, attack: Attack, threat: str | None = None) -> Slot:
        """The slot of an attack here, or of the same attack under another threat model."""
        return Slot(self.subject, self.variant, attack, self.defence, self.threat if threat is None else threat)


def places(evidence: Evidence) -> list[Place]:
    """Undefended, then each defence under each threat model that knows of it.

    A defence that met only attacks that do not know of it has one place, of the threat model "static".
    """
    threats: dict[tuple[Subject, Variant, Defence | None], dict[str, None]] = defaultdict(dict)
    for slot in evidence.runs:
        if ATTACK_KNOWLEDGE.get(slot.attack.attack) in ("white-box", "black-box"):
            threats[slot.subject, slot.variant, slot.defence][slot.threat] = None
    found: list[Place] = []
    for (subject, variant, defence), known in threats.items():
        adaptive = [threat for threat in known if threat != STATIC] or [STATIC]
        found += [Place(evidence, subject, variant, defence, threat) for threat in adaptive]
    return found


class Cells:
    """The attacks of one place, with the share of images on which each failed.

    Attributes:
        place: where.
        runs: of each attack.
        rates: mean share of failures.
        is_targeted: whether an attack aims at a class.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.runs: dict[Attack, Runs] = {
            slot.attack: runs
            for slot, runs in place.evidence.runs.items()
            if not slot.attack.is_none and slot == place.slot(slot.attack, self._threat(slot))
        }
        self.rates = {attack: float(failed(runs).mean()) for attack, runs in self.runs.items()}
        self.is_targeted = {attack: targets(runs) is not None for attack, runs in self.runs.items()}

    def _threat(self, slot: Slot) -> str:
        """The threat model under which a slot's attack belongs here: noise, which asks no model, under any."""
        asks_nothing = ATTACK_KNOWLEDGE.get(slot.attack.attack) == "none"
        return slot.threat if asks_nothing else self.place.threat

    def of_kind(self, *kinds: str) -> list[Attack]:
        """Those that use this much of the model (`limla.plans.ATTACK_KNOWLEDGE`)."""
        return [attack for attack in self.runs if ATTACK_KNOWLEDGE.get(attack.attack) in kinds]

    def rivals(self, attack: Attack, among: Iterable[Attack]) -> list[Attack]:
        """Those that are bounded alike and want the same as `attack`."""
        return [
            other
            for other in among
            if other.norm == attack.norm
            and math.isclose(other.eps, attack.eps, rel_tol=1e-6)
            and self.is_targeted[other] == self.is_targeted[attack]
        ]

    def strongest(self, attacks: Sequence[Attack]) -> Attack:
        """The one that fails least."""
        return min(attacks, key=lambda attack: (self.rates[attack], attack.label))

    def families(
        self, family: Callable[[Attack], object], member: Callable[[Attack], float]
    ) -> Iterator[dict[float, Attack]]:
        """Attacks that use the model, by family; in each the strongest of every value of `member`, rising."""
        found: dict[object, dict[float, list[Attack]]] = defaultdict(lambda: defaultdict(list))
        for attack in self.of_kind("white-box", "black-box"):
            found[family(attack), self.is_targeted[attack]][member(attack)].append(attack)
        for by_member in found.values():
            yield {value: self.strongest(by_member[value]) for value in sorted(by_member)}

    def example_eps(self) -> str:
        """An eps in use here, as the command line writes it."""
        return next((eps_text(attack.eps) for attack in self.runs if attack.norm == "linf"), "8/255")


class Contest(NamedTuple):
    """Two attacks by what is expected of them, and what a breach means.

    Attributes:
        stronger, weaker: label and runs; the stronger should not fail more often.
        remark: what it means if it does.
        tolerance: how far the failures may lie apart, to both sides; None where only more failures are wrong.
    """

    stronger: tuple[str, Runs]
    weaker: tuple[str, Runs]
    remark: str
    tolerance: float | None = None


class Rule(NamedTuple):
    """What a check compares in a place, and what to run where there is nothing to compare."""

    compare: Callable[[Cells], Iterator[Contest]]
    remedy: Callable[[Cells], str]


def _compared(
    cells: Cells, stronger: Attack, weaker: Attack, remark: str, tolerance: float | None = None
) -> Contest:
    return Contest(
        (stronger.label, cells.runs[stronger]), (weaker.label, cells.runs[weaker]), remark, tolerance
    )


def settings_of(attack: Attack) -> dict[str, Any]:
    """The attack's other parameters; {} for a text that is no JSON object."""
    try:
        found = json.loads(attack.attack_settings or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _settings_without(attack: Attack, *names: str) -> str:
    """The attack's other parameters but for those named, as text."""
    kept = {name: value for name, value in settings_of(attack).items() if name not in names}
    return json.dumps(kept, sort_keys=True)


def _steps(attack: Attack) -> float:
    """Gradient steps; 0 where the attack has no such parameter."""
    steps = settings_of(attack).get("steps")
    return float(steps) if isinstance(steps, int | float) else 0.0


def _is_single_step(attack: Attack) -> bool:
    return attack.attack in SINGLE_STEP or _steps(attack) == 1


def _reach(attack: Attack) -> float:
    """How far the attack's steps can carry an image; infinity where its settings do not say."""
    alpha = settings_of(attack).get("alpha")
    return _steps(attack) * alpha if isinstance(alpha, int | float) and alpha > 0 else math.inf


def _iterative(cells: Cells) -> Iterator[Contest]:
    white = cells.of_kind("white-box")
    single = [attack for attack in white if _is_single_step(attack)]
    for weaker in single:
        for stronger in cells.rivals(weaker, [attack for attack in white if attack not in single]):
            remark = "the iterative attack is the weaker one"
            if _reach(stronger) < stronger.eps:
                remark += (
                    f" (its steps cannot cross a ball of {eps_text(stronger.eps)}: give it more or longer ones)"
                )
            yield _compared(cells, stronger, weaker, remark)


def _growing(cells: Cells) -> Iterator[Contest]:
    def family(attack: Attack) -> object:
        return attack.attack, attack.norm, _settings_without(attack, "alpha")

    for by_eps in cells.families(family, lambda attack: attack.eps):
        for smaller, larger in pairwise(by_eps.values()):
            yield _compared(cells, larger, smaller, "the attack is weaker at the larger eps")


def _black_box(cells: Cells) -> Iterator[Contest]:
    for weaker in cells.of_kind("black-box"):
        rivals = cells.rivals(weaker, cells.of_kind("white-box"))
        if rivals:
            remark = "an attack without gradients beats the best one with gradients"
            yield _compared(cells, cells.strongest(rivals), weaker, remark)


def _noise(cells: Cells) -> Iterator[Contest]:
    for weaker in (attack for attack in cells.runs if attack.attack in NOISES):
        rivals = cells.rivals(weaker, cells.of_kind("white-box", "black-box"))
        if rivals:
            yield _compared(cells, cells.strongest(rivals), weaker, "noise beats the best attack")


STEPS_TOLERANCE = 0.01
"""An attack has converged when more steps change its failures by no more than one point."""


def _converged(cells: Cells) -> Iterator[Contest]:
    def family(attack: Attack) -> object:
        return attack.attack, attack.norm, attack.eps, _settings_without(attack, "alpha", "steps")

    for by_steps in cells.families(family, _steps):
        known = [attack for steps, attack in by_steps.items() if steps > 0]
        if len(known) > 1:
            fewer, more = known[-2:]
            remark = "the attack has not converged and robustness may be overstated"
            yield _compared(cells, more, fewer, remark, STEPS_TOLERANCE)


def _adaptive(cells: Cells) -> Iterator[Contest]:
    place = cells.place
    if place.threat == STATIC:
        return
    for attack in cells.of_kind("white-box", "black-box"):
        static = place.evidence.runs.get(place.slot(attack, STATIC))
        if static is not None:
            yield Contest(
                (f"{attack.label} ({place.threat})", cells.runs[attack]),
                (f"{attack.label} ({STATIC})", static),
                "knowing of the defence makes the attack weaker",
            )


def _missing_threat(cells: Cells) -> str:
    place = cells.place
    if place.threat != STATIC:
        return f"add --threat {STATIC},{place.threat}"
    return f"add --threat {STATIC},{'eot-bpda' if place.defence and '+' in place.defence.quality else 'bpda'}"


RULES: dict[str, Rule] = {
    "iterative": Rule(
        _iterative,
        lambda cells: "add --attack fgsm:eps={0} and --attack pgd:eps={0}".format(cells.example_eps()),
    ),
    "eps": Rule(
        _growing, lambda cells: "evaluate one attack at two eps, as with --attack pgd --eps 2/255,8/255"
    ),
    "black box": Rule(
        _black_box,
        lambda cells: "add --attack square:eps={0} beside --attack pgd:eps={0}".format(cells.example_eps()),
    ),
    "noise": Rule(_noise, lambda cells: f"add --attack uniform-noise:eps={cells.example_eps()}"),
    "steps": Rule(_converged, lambda cells: f"add --attack pgd:eps={cells.example_eps()},steps=40"),
    "adaptive": Rule(_adaptive, _missing_threat),
}
"""By name of the check. "large eps" compares with the images that were right before: see `limla.analysis.masking`."""
