"""The attack socket: the base checks, bounds and restores; a plug only computes.

All perturbations are measured on the [0, 1] scale of a `Batch`: "8/255" is parsed by the command line.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limla.attacks.checks import check_batch, check_choice
from limla.attacks.judging import JudgedVictim, left_as_it_was, seeded
from limla.errors import SettingsError
from limla.plans import Parameter, parse_number
from limla.registry import ATTACKS

NORMS: dict[str, str] = {
    "linf": "the largest change of any value",
    "l2": "the Euclidean length of an image's whole change",
}
"""Norm → what eps measures in it, on the [0, 1] scale."""

TARGETS: dict[str, str] = {
    "": "untargeted: any wrong class",
    "next": "the class after the true one, after the last the first",
    "random": "one of the other classes, drawn from the seed with equal probability",
}
"""Value of `target` → the class that an attack aims at."""

_TINY = 1e-12


@runtime_checkable
class SplitsBatches(Protocol):
    """A victim that computes a batch in parts, possibly in several threads: `limla.models.victim.Victim`."""

    def run_parts(self, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`work(model, part of each tensor, …)` for every part, the results put together."""
        ...


class Attack(ABC):
    """Moves images within a small ball so that a model errs.

    Every parameter of a subclass' `__init__` is kept as an attribute of the same name.

    Attributes:
        name: the catalogue name.
        norm: a name of `NORMS`, the norm of the ball; "" for "none".
        knowledge: what it uses of the model: "white-box" (gradients), "black-box" (outputs alone) or "none"; also in
            `limla.plans.ATTACK_KNOWLEDGE`.
        uses_seed: whether the result depends on the seed (a random start); then the seed is part of the record.
        splits_batches: whether what becomes of an image depends on itself and its `_start` alone, so that a batch may
            be computed in parts. If not, the result depends on the batch as well as on the seed.
        num_gradients: passes through the model that one image costs, most of them with gradients in a white-box
            attack; the most there can be where an attack stops early.
        target: a name of `TARGETS`, the class that the attack aims at.
        eps: radius of the ball; 0 leaves the images exactly as they are.
    """

    name: ClassVar[str]
    norm: str = ""
    knowledge: ClassVar[str] = "white-box"
    uses_seed: ClassVar[bool] = False
    splits_batches: ClassVar[bool] = True
    num_gradients: int = 1
    target: str = ""

    def __init__(self, eps: float, norm: str | None = None) -> None:
        if norm is not None:
            self.norm = check_choice(self.name, "norm", norm, NORMS)
        if self.norm == "l2":
            if not (math.isfinite(eps) and eps >= 0):
                raise SettingsError(
                    f"eps {eps:g} of attack '{self.name}' is out of range: it is {NORMS['l2']} on the [0, 1] scale, "
                    "so choose 0 or more, for example 0.5"
                )
        elif not (math.isfinite(eps) and 0 <= eps <= 1):
            raise SettingsError(
                f"eps {eps:g} of attack '{self.name}' is out of range: it is measured on the [0, 1] scale, "
                "so choose 0 to 1, for example 8/255"
            )
        self.eps = float(eps)

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter with its value, those left out included: `build_attack` makes an equal attack of them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def settings(self) -> dict[str, Any]:
        """What the result depends on besides norm and eps, JSON types only: part of the record."""
        return {}

    def targets(self, labels: Tensor, num_classes: int, seed: int) -> Tensor | None:
        """The (N,) int64 classes that a targeted attack aims at, never the true ones; None for an untargeted one.

        Raises `SettingsError` for a model of fewer than two classes.
        """
        if not self.target:
            return None
        if num_classes < 2:
            raise SettingsError(
                f"attack '{self.name}' aims at another class, and the model knows {num_classes}: give one with more"
            )
        if self.target == "next":
            return (labels + 1) % num_classes
        drawn = torch.Generator().manual_seed(seed)
        offsets = torch.randint(1, num_classes, labels.shape, generator=drawn).to(labels.device)
        return (labels + offsets) % num_classes

    def run(self, victim: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Attack one batch.

        Args:
            victim: images in [0, 1] → (N, C) logits; attacked in eval mode.
            images: (N, channels, H, W) float32 in [0, 1], on the victim's device; left untouched.
            labels: (N,) int64 true classes.
            seed: of the attack's randomness; equal arguments give equal results on one machine and device.

        An attack with `splits_batches` gives an image the same result in every batch with the same start, up to
        rounding; another one runs the whole batch in the calling thread.

        Returns a new tensor of the images' shape: within eps of them in the attack's norm, in [0, 1], finite.
        The victim's parameters, gradients, `requires_grad`, buffers and every module's train/eval mode are
        left as they were, and so is the global random state.

        Raises `ValueError` for a batch that is none, `DataError` when the victim's logits or gradients are
        not finite or a label is not among its outputs, `SettingsError` for a model that cannot be attacked.
        """
        check_batch(images, labels)
        if self.eps == 0 or len(images) == 0:
            return images.clone()

        def attack_part(model: nn.Module, part: Tensor, part_classes: Tensor, start: Tensor) -> Tensor:
            judged = JudgedVictim(model, images.device, labels, self.name, eager=not self.splits_batches)
            adversarial = self._compute(judged, part, part_classes, start).detach()
            judged.raise_if_not_finite()
            return adversarial

        with left_as_it_was(victim), seeded(seed, images.device), torch.enable_grad():
            # in one memory layout: a random start fills memory in order, so it would depend on the layout
            images = images.detach().contiguous()
            tensors = (images, self._classes(victim, images, labels, seed), self._start(images))
            if self.splits_batches and isinstance(victim, SplitsBatches):
                adversarial = victim.run_parts(attack_part, *tensors)
            else:
                adversarial = attack_part(victim, *tensors)
        assert adversarial.shape == images.shape, (self.name, adversarial.shape)
        adversarial = project(adversarial, images, self.norm, self.eps)
        assert bool(torch.isfinite(adversarial).all()), self.name
        return adversarial

    def _classes(self, victim: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """The classes to move towards, or away from in an untargeted attack."""
        if not self.target:
            return labels
        with torch.no_grad():
            logits = JudgedVictim(victim, images.device, labels, self.name)(images[:1])
        targets = self.targets(labels, logits.shape[1], seed)
        assert targets is not None
        return targets

    def _start(self, images: Tensor) -> Tensor:
        """Where the search begins, (N, …): here the images themselves. Called once for the batch, seeded; all
        randomness of an attack that splits batches belongs here."""
        return images

    @abstractmethod
    def _compute(self, victim: nn.Module, images: Tensor, classes: Tensor, start: Tensor) -> Tensor:
        """The adversarial images, not yet bounded; called in eval mode with gradients on.

        The four hold a batch or a part of one. `classes` are the true ones, or those that a targeted attack aims at.
        With `splits_batches` what becomes of an image must not depend on the others, and several parts may run at
        once in threads. Without, torch's generators are seeded with the seed of the run (`torch.initial_seed()`).
        """


def loss_gradient(victim: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The gradient of the cross-entropy loss of each image by that image, in their shape."""
    images = images.detach().requires_grad_(True)
    # the sum, not the mean: an image's gradient does not depend on how many others there are
    loss = nn.functional.cross_entropy(victim(images), classes, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(N,) values in the shape (N, 1, …) that multiplies images."""
    return values.view(-1, *[1] * (images.ndim - 1))


def lengths(differences: Tensor) -> Tensor:
    """The (N,) L2 lengths of (N, …) differences, at least 1e-12."""
    return differences.flatten(1).norm(dim=1).clamp_(min=_TINY)


def project(adversarial: Tensor, images: Tensor, norm: str, eps: float) -> Tensor:
    """The nearest point to `adversarial` in the eps-ball around `images`, then clamped to [0, 1].

    "linf" clamps each value; "l2" shortens each image's difference to length eps. Clamping to [0, 1], where
    the images lie, only brings the result nearer to them, so it stays in the ball.
    """
    if norm == "linf":
        bounded = torch.minimum(torch.maximum(adversarial, images - eps), images + eps)
    elif norm == "l2":
        difference = adversarial - images
        length = per_image(lengths(difference), images)
        # rounding must not carry those inside over the model's boundary
        bounded = torch.where(length <= eps, adversarial, images + difference * (eps / length))
    else:
        raise AssertionError(f"no projection for norm '{norm}'")
    return bounded.clamp_(0, 1)


def attack_parameters(name: str) -> tuple[str, ...]:
    """The parameters that an attack takes, "eps" first; () for "none"."""
    parameters = inspect.signature(ATTACKS.load(name)).parameters.values()
    return tuple(parameter.name for parameter in parameters)


def build_attack(name: str, parameters: Mapping[str, Parameter] | None = None) -> Attack:
    """An attack by its catalogue name; parameters left out take the attack's defaults.

    Raises `UnknownNameError`, and `SettingsError` for a parameter that the attack does not take, lacks, or
    takes of another type or in another range.
    """
    known = attack_parameters(name)
    given = dict(parameters or {})
    foreign = [key for key in given if key not in known]
    if foreign:
        takes = f"it takes {', '.join(known)}" if known else "it takes no parameters"
        raise SettingsError(f"attack '{name}' takes no {' and no '.join(foreign)}; {takes}")
    if "eps" in known and "eps" not in given and attack_needs_eps(name):
        norm = attack_norm(name, given)
        example = "8/255" if norm == "linf" else "eps=0.5 among its own parameters"
        raise SettingsError(
            f"attack '{name}' needs eps, {NORMS[norm]} on the [0, 1] scale in norm {norm}, for example {example}"
        )
    plug = ATTACKS.load(name)
    return plug(**{key: _typed(name, key, value, plug) for key, value in given.items()})


def attack_needs_eps(name: str) -> bool:
    """Whether an attack must be told its eps: it takes one and has no default."""
    eps = inspect.signature(ATTACKS.load(name)).parameters.get("eps")
    return eps is not None and eps.default is inspect.Parameter.empty


def attack_norm(name: str, parameters: Mapping[str, Parameter] | None = None) -> str:
    """The norm of an attack with these parameters, whatever its eps; "" for "none". Raises as `build_attack`."""
    return build_attack(name, {**(parameters or {}), "eps": 0.0} if attack_needs_eps(name) else parameters).norm


def _typed(name: str, key: str, value: Parameter, plug: Any) -> Parameter:
    """The value as the attack's signature wants it; raises `SettingsError` for a value of another kind."""
    wanted = inspect.signature(plug).parameters[key].annotation.removesuffix(" | None")
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return parse_number(value)
    kinds: dict[str, tuple[type, str]] = {
        "float": (float, "a number, as 0.03 or 8/255"),
        "int": (int, "a whole number"),
        "bool": (bool, "true or false"),
        "str": (str, "a word"),
    }
    if wanted in kinds:
        kind, what = kinds[wanted]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise SettingsError(f"{key} of attack '{name}' is {value!r}: give {what}")
    return value
