"""The cells of one model on one variant: attacks × (no defence, or a defence under a threat model)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from limla.attacks.base import Attack, attack_norm, build_attack
from limla.defences import CodecDefence
from limla.evaluation.settings import EvaluateSettings, shared_parameters
from limla.files import canonical_json
from limla.plans import NO_ATTACK, AttackPlan, DefencePlan

_GRADIENTS_PER_PASS = 20_000


@dataclass(frozen=True)
class CellPlan:
    """One cell: what changes the images between the loader and the model.

    Attributes:
        attack: with its parameters.
        threat: what the attacker knows of the defence, a name of `limla.plans.THREATS`; "" without attack or defence.
        defence: None without.
        stream: which of the batches that a pass makes of the same images (`limla.evaluation.inputs`).
    """

    attack: Attack
    threat: str = ""
    defence: CodecDefence | None = None
    stream: int = 0

    @property
    def view(self) -> CodecDefence | None:
        """The defence that the attacker computes with; None for one who does not know of it."""
        return None if self.threat in ("", "static") else self.defence


def build_attacks(settings: EvaluateSettings) -> tuple[Attack, ...]:
    """The attacks of the grid, "none" first, one for each eps; each gets the parameters that it takes.

    Raises `SettingsError` for a parameter that an attack does not take or that is out of range, and for an attack in
    another norm than "linf" without an eps of its own.
    """
    plans: list[AttackPlan] = []
    for item in (NO_ATTACK, *settings.attacks):
        plan = AttackPlan(item) if isinstance(item, str) else item
        takes = shared_parameters(plan.name)
        per_value = attack_norm(plan.name, dict(plan.parameters)) == "linf"
        shared = {"steps": settings.steps, "alpha": settings.alpha if per_value else None}
        plan = plan.with_defaults(
            {name: value for name, value in shared.items() if value is not None and name in takes}
        )
        if "eps" not in takes or "eps" in dict(plan.parameters) or not per_value:
            # without any eps, building it says what is missing
            plans.append(plan)
        else:
            plans += [plan.with_defaults({"eps": eps}) for eps in settings.eps] or [plan]
    found: dict[str, Attack] = {}
    for plan in plans:
        attack = build_attack(plan.name, dict(plan.parameters))
        # "pgd" and "pgd:steps=10" are one cell
        found.setdefault(canonical_json([attack.name, attack.norm, attack.eps, attack.settings()]), attack)
    return tuple(found.values())


def plan_cells(settings: EvaluateSettings, num_threads: int | None = None) -> tuple[CellPlan, ...]:
    """Every cell of one model on one variant: all without a defence, then defence by defence.

    Raises as `build_attacks`.
    """
    attacks = build_attacks(settings)
    cells = [CellPlan(attack) for attack in attacks]
    for plan in settings.defences:
        defence = CodecDefence(plan, num_threads)
        for attack in attacks:
            cells += [CellPlan(attack, threat, defence) for threat in _threats(attack, plan)]
    return tuple(cells)


def _threats(attack: Attack, defence: DefencePlan) -> tuple[str, ...]:
    """The threat models under which an attack's results may differ."""
    if attack.name == NO_ATTACK:
        return ("",)
    if attack.knowledge == "none":
        # noise asks no model, so whatever its maker knows of the defence, the images are the same
        return ("static",) if "static" in defence.threats else defence.threats[:1]
    return defence.threats


def of_each_stream(plans: Sequence[CellPlan], num_streams: int) -> tuple[CellPlan, ...]:
    """Every cell on every stream; cells that differ in the stream only stand together, so that they share a pass."""
    return tuple(replace(plan, stream=stream) for plan in plans for stream in range(num_streams))


def grouped(cells: Sequence[CellPlan]) -> list[list[int]]:
    """The places of the cells that share their attacked images: one attack on one stream, seen through one view."""
    groups: dict[tuple[int, int, int, str], list[int]] = {}
    for place, cell in enumerate(cells):
        view = "" if cell.view is None else cell.threat
        groups.setdefault((cell.stream, id(cell.attack), id(cell.view), view), []).append(place)
    return list(groups.values())


def passes(cells: Sequence[CellPlan], num_samples: int) -> list[list[CellPlan]]:
    """The cells cut into passes over the images: as few as keep the work lost with an interrupted one small.

    Groups of cells that share attacked images stay together; a pass ends after about `_GRADIENTS_PER_PASS` passes of
    one image through the model, but never between cells without an attack: of simulated qualities, making the images
    is the larger part of their cost.
    """
    found: list[list[CellPlan]] = [[]]
    spent = 0
    for places in grouped(cells):
        cell = cells[places[0]]
        behind = 1 if cell.view is None else len(cell.view.plan.qualities)
        cost = num_samples * (cell.attack.num_gradients * behind + len(places))
        if found[-1] and cells[places[0]].attack.num_gradients and spent + cost > _GRADIENTS_PER_PASS:
            found.append([])
            spent = 0
        found[-1] += [cells[place] for place in places]
        spent += cost
    return [part for part in found if part]
