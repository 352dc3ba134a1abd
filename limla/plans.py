"""What is asked of attacks, defences and training, as plain values: checked, hashable, without torch.

A plan names plugs of the catalogues; `limla.attacks.base.build_attack` and `limla.defences` make them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from limla.codecs import codec_label, codec_name, codec_scale
from limla.errors import SettingsError
from limla.registry import ATTACKS, DIFFERENTIABLE

NO_ATTACK = "none"
Parameter: TypeAlias = float | int | str | bool

THREATS: dict[str, str] = {
    "static": "the attacker does not know of the defence",
    "bpda": "the real codec forward, the identity backward (Athalye, Carlini & Wagner, ICML 2018)",
    "differentiable": "a differentiable model of the codec in the attacker's graph",
    "eot-bpda": "as bpda, with the mean of the logits over all qualities of a defence that draws one at random",
    "eot-differentiable": "as differentiable, with the mean of the logits over all qualities of such a defence",
}
"""Threat models of an attack on a defended model: name → what the attacker knows.

"eot": expectation over transformation (Athalye, Engstrom, Ilyas & Kwok, ICML 2018), here over finitely many.
"""

ATTACK_KNOWLEDGE: dict[str, str] = {
    "none": "none",
    "uniform-noise": "none",
    "gaussian-noise": "none",
    "fgsm": "white-box",
    "mifgsm": "white-box",
    "pgd": "white-box",
    "cw": "white-box",
    "autoattack": "white-box",
    "square": "black-box",
}
"""Attack → what it uses of the model: its gradients ("white-box"), its outputs alone ("black-box"), or "none" of it.

A copy of every attack's `knowledge`, for readers of results that do without torch.
"""


def parse_number(value: Any) -> float:
    """A number from TOML or the command line: 0.03, "0.03" or "8/255".

    Raises `SettingsError` for anything else, or a value that is not finite.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and "/" in value:
            numerator, denominator = value.split("/")
            number = float(numerator) / float(denominator)
        else:
            number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SettingsError(f"{value!r} is not a number: write it as 0.03 or 8/255") from error
    return number


@dataclass(frozen=True)
class AttackPlan:
    """One attack with its parameters.

    Attributes:
        name: of the catalogue.
        parameters: (name, value), sorted by name; the attack's own defaults stand for those left out.
    """

    name: str
    parameters: tuple[tuple[str, Parameter], ...] = ()

    def __post_init__(self) -> None:
        ATTACKS.check(self.name)
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))

    def with_defaults(self, defaults: Mapping[str, Parameter]) -> AttackPlan:
        """The plan with `defaults` for what it does not give itself."""
        return AttackPlan(self.name, tuple({**defaults, **dict(self.parameters)}.items()))


def parse_attack(text: str) -> AttackPlan:
    """An attack as the command line writes it: "fgsm", or "pgd:eps=8/255,steps=20,norm=l2".

    Raises `UnknownNameError`, or `SettingsError` for text that is no list of name=value. Which parameters an attack
    takes, and their ranges, is checked when it is built.
    """
    name, _, rest = text.strip().partition(":")
    ATTACKS.check(name)
    found: dict[str, Parameter] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key or not value:
            raise SettingsError(f"attack '{text}': '{part}' is not name=value; write pgd:eps=8/255,steps=20")
        if key in found:
            raise SettingsError(f"attack '{text}': {key} is given twice")
        found[key] = parse_value(value)
    return AttackPlan(name, tuple(found.items()))


def parse_value(text: str) -> Parameter:
    """A parameter's value from text: whole number, fraction or decimal, true/false, else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return parse_number(text)
    except SettingsError:
        return text


@dataclass(frozen=True)
class DefencePlan:
    """Every image goes through a codec, as a real bitstream, before the model sees it.

    Attributes:
        codec: of the catalogue, with knobs as in "jpeg:subsampling=444".
        qualities: one, or several of which each image's is drawn at random with equal probability.
        threats: what the attackers know of it; names of `THREATS`.
    """

    codec: str
    qualities: tuple[int, ...]
    threats: tuple[str, ...] = ("static",)

    def __post_init__(self) -> None:
        scale = codec_scale(self.codec)
        codec_label(self.codec)  # builds it, so that a wrong knob is refused here and not after the training
        if not self.qualities or not self.threats:
            raise SettingsError(f"defence {self.codec}: name at least one quality and one threat model")
        for quality in self.qualities:
            scale.check(quality)
        if len(set(self.qualities)) < len(self.qualities):
            raise SettingsError(f"defence {self.label}: a quality is named twice; name each once")
        if len(set(self.threats)) < len(self.threats):
            named = ", ".join(self.threats)
            raise SettingsError(
                f"defence {self.label}: a threat model is named twice ({named}); name each once"
            )
        object.__setattr__(self, "qualities", tuple(sorted(self.qualities)))
        for threat in self.threats:
            if threat not in THREATS:
                raise SettingsError(f"unknown threat model '{threat}'; known: {', '.join(THREATS)}")
            self._check_threat(threat)

    def _check_threat(self, threat: str) -> None:
        if threat.endswith("differentiable") and codec_label(self.codec) not in DIFFERENTIABLE.names():
            raise SettingsError(
                f"threat model '{threat}' needs a differentiable model of codec '{self.codec}', and there is none "
                f"(only of {', '.join(DIFFERENTIABLE.names())}): choose {threat.replace('differentiable', 'bpda')}"
            )
        is_random = len(self.qualities) > 1
        if is_random and threat in ("bpda", "differentiable"):
            raise SettingsError(
                f"threat model '{threat}' is for one quality, and defence {self.label} draws its own at random: "
                f"choose eot-{threat}, or static"
            )
        if not is_random and threat.startswith("eot-"):
            raise SettingsError(
                f"threat model '{threat}' is the expectation over several qualities, and defence {self.label} has one: "
                f"choose {threat.removeprefix('eot-')}, or several qualities as in {self.codec}:10+50+90"
            )

    @property
    def quality(self) -> str:
        """As conditions record it: "50", or "10+50+90"."""
        return "+".join(map(str, self.qualities))

    @property
    def label(self) -> str:
        """As rows record it: "jpeg:50", "jpeg:10+50+90", "autoencoder:weights=0f3c…:50"."""
        return f"{codec_label(self.codec)}:{self.quality}"


def parse_defences(text: str, threats: Sequence[str] = ("static",)) -> tuple[DefencePlan, ...]:
    """Defences as the command line writes them: "jpeg:10,50,90" are three, "jpeg:10+50+90" is one that draws.

    A threat model that does not fit a defence (`eot-…` for one quality, `bpda` for several) is left out for it as long
    as another one fits. Raises `UnknownNameError` or `SettingsError`.
    """
    codec, colon, rest = text.strip().rpartition(":")
    if not colon:
        codec = codec_name(rest)
        raise SettingsError(f"defence '{text}' names no quality: write {codec}:50, or {codec}:10,50,90")
    codec_name(codec)
    found: list[DefencePlan] = []
    for part in rest.split(","):
        try:
            qualities = tuple(int(number) for number in part.split("+"))
        except ValueError as error:
            raise SettingsError(
                f"defence '{text}': '{part}' is not a quality; write {codec}:50, {codec}:10,50 for two defences, or "
                f"{codec}:10+50 for one that draws each image's quality"
            ) from error
        found.append(DefencePlan(codec, qualities, fitting_threats(threats, len(qualities) > 1)))
    return tuple(found)


def fitting_threats(threats: Sequence[str], is_random: bool) -> tuple[str, ...]:
    """Those of `threats` that can attack a defence of several qualities (`is_random`), or of one; all if none can.

    An unknown name stays, for `DefencePlan` to refuse.
    """
    unfit = ("bpda", "differentiable") if is_random else ("eot-bpda", "eot-differentiable")
    return tuple(threat for threat in threats if threat not in unfit) or tuple(threats)
