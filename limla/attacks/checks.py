"""Checks of what attacks are given; every message is one line that says what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, float32, int64

from limla.errors import SettingsError

if TYPE_CHECKING:
    from limla.attacks.base import Attack

_SMALLEST_SIDE = 25
_HIGHEST_COUNT = 10**9


def check_choice(attack: str, parameter: str, value: str, known: Mapping[str, str]) -> str:
    """`value` if it is one of `known` (name → meaning), else `SettingsError`."""
    if value not in known:
        names = ", ".join(name or '""' for name in known)
        raise SettingsError(f"{parameter} '{value}' of attack '{attack}' is unknown; known: {names}")
    return value


def check_count(attack: str, parameter: str, value: int) -> int:
    """`value` if it is 1 to 10⁹, else `SettingsError`."""
    if value < 1:
        raise SettingsError(f"{value} {parameter} of attack '{attack}' are out of range: choose at least 1")
    if value > _HIGHEST_COUNT:
        raise SettingsError(
            f"{parameter} of attack '{attack}' are out of range: choose at most {_HIGHEST_COUNT}"
        )
    return value


def check_positive(
    attack: str, parameter: str, value: float, highest: float = math.inf, what: str = ""
) -> float:
    """`value` if it is above 0, finite and at most `highest`, else `SettingsError` that says `what` it is."""
    if not (math.isfinite(value) and 0 < value <= highest):
        allowed = f"above 0 to {highest:g}" if math.isfinite(highest) else "a number above 0"
        because = f"it is {what}, so choose" if what else "choose"
        raise SettingsError(f"{parameter} {value:g} of attack '{attack}' is out of range: {because} {allowed}")
    return float(value)


def check_not_negative(attack: str, parameter: str, value: float) -> float:
    """`value` if it is finite and at least 0, else `SettingsError`."""
    if not (math.isfinite(value) and value >= 0):
        raise SettingsError(f"{parameter} {value:g} of attack '{attack}' is out of range: choose 0 or more")
    return float(value)


def check_squares_fit(attack: str, norm: str, images: Tensor) -> None:
    """Raise `SettingsError` for images that torchattacks' Square cannot tile in "l2": not square, or too small."""
    height, width = images.shape[2:]
    if norm == "l2" and (height != width or height < _SMALLEST_SIDE):
        raise SettingsError(
            f"attack '{attack}' in norm l2 needs square images of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE} pixels, "
            f"and these are {height} x {width}: choose norm linf"
        )


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise `ValueError` for what is no batch: see `Attack.run`."""
    if images.ndim != 4 or images.dtype != float32:
        raise ValueError(f"images must be (N, C, H, W) float32, got {tuple(images.shape)} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != int64:
        raise ValueError(f"labels must be ({len(images)},) int64, got {tuple(labels.shape)} {labels.dtype}")
    # written so that NaN fails too
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie in [0, 1]: normalisation belongs into the model, as its first layer")


def caution(attack: Attack) -> str:
    """A line about an attack that cannot do what it is asked for; "" when there is nothing to say."""
    parameters = attack.settings()
    steps, alpha = parameters.get("steps"), parameters.get("alpha")
    if steps is None or alpha is None or not 0 < attack.eps < math.inf:
        return ""
    of_step, of_ball = (
        (f"{value * 255:.3g}/255" if attack.norm == "linf" else f"{value:.3g}") for value in (alpha, attack.eps)
    )
    if steps * alpha < attack.eps * (1 - 1e-6):
        problem = f"{steps} steps of {of_step} cannot cross a ball of radius {of_ball}; raise steps or alpha"
    elif steps > 1 and alpha > attack.eps * (1 + 1e-6):
        problem = f"steps of {of_step} leap from side to side of a ball of radius {of_ball}; lower alpha"
    else:
        return ""
    return f"warning: attack '{attack.name}' ({attack.norm}) is weaker than it looks: {problem}"
