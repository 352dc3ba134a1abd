"""The attack socket: the base checks, bounds and restores; a plug only computes.

All perturbations are measured on the [0, 1] scale of a `Batch`: "8/255" is parsed by the command line.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limla.errors import DataError, SettingsError
from limla.plans import Parameter
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
        _check_batch(images, labels)
        if self.eps == 0 or len(images) == 0:
            return images.clone()

        def attack_part(model: nn.Module, part: Tensor, part_classes: Tensor, start: Tensor) -> Tensor:
            judged = _JudgedVictim(model, images.device, labels, self.name, eager=not self.splits_batches)
            adversarial = self._compute(judged, part, part_classes, start).detach()
            judged.raise_if_not_finite()
            return adversarial

        with _left_as_it_was(victim), _seeded(seed, images.device), torch.enable_grad():
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
            logits = _JudgedVictim(victim, images.device, labels, self.name)(images[:1])
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
        measured = NORMS[attack_norm(name, given)]
        example = "8/255" if attack_norm(name, given) == "linf" else "0.5"
        raise SettingsError(f"attack '{name}' needs eps, {measured} on the [0, 1] scale, for example {example}")
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
        return float(value)
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


def check_choice(attack: str, parameter: str, value: str, known: Mapping[str, str]) -> str:
    """`value` if it is one of `known` (name → meaning), else `SettingsError`."""
    if value not in known:
        names = ", ".join(name or '""' for name in known)
        raise SettingsError(f"{parameter} '{value}' of attack '{attack}' is unknown; known: {names}")
    return value


def check_count(attack: str, parameter: str, value: int) -> int:
    """`value` if it is at least 1, else `SettingsError`."""
    if value < 1:
        raise SettingsError(f"{value} {parameter} of attack '{attack}' are out of range: choose at least 1")
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


def _check_batch(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.float32:
        raise ValueError(f"images must be (N, C, H, W) float32, got {tuple(images.shape)} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be ({len(images)},) int64, got {tuple(labels.shape)} {labels.dtype}")
    # written so that NaN fails too
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie in [0, 1]: normalisation belongs into the model, as its first layer")


class _JudgedVictim(nn.Module):
    """The victim as an attack library sees it: on a known device, with its logits and gradients judged.

    A plain wrapper also keeps libraries from guessing a normalisation out of the model's attributes and
    from changing the mode of its modules.
    """

    def __init__(
        self, victim: nn.Module, device: torch.device, labels: Tensor, attack: str, eager: bool = False
    ) -> None:
        super().__init__()
        # in a tuple, so that it is no submodule: .train() and .eval() of the wrapper do not reach it
        self._victim = (victim,)
        self._lowest, self._highest = int(labels.min()), int(labels.max())
        self._attack, self._eager = attack, eager
        # libraries take the device from the first parameter, and not every model has one
        self._device_mark = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self._finite_logits = torch.ones((), dtype=torch.bool, device=device)
        self._finite_gradients = torch.ones((), dtype=torch.bool, device=device)

    def forward(self, images: Tensor) -> Tensor:
        with_gradients = images.requires_grad and torch.is_grad_enabled()
        if with_gradients:
            images.register_hook(self._judge_gradient)
        logits = self._victim[0](images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise SettingsError(f"the model gives {shape} for {len(images)} images: it must give (N, C) logits")
        if self._lowest < 0 or self._highest >= logits.shape[1]:
            raise DataError(
                f"labels {self._lowest} to {self._highest} do not fit a model of {logits.shape[1]} classes"
            )
        if logits.shape[1] < 2:
            raise SettingsError(f"a model of one class has no wrong answer for attack '{self._attack}' to find")
        if with_gradients and not logits.requires_grad:
            raise SettingsError(
                "the model's output does not depend differentiably on its input (detach, no_grad or rounding "
                "inside?), so a gradient attack cannot run on it"
            )
        # kept on the device and read once per batch, so that a GPU need not wait at every step; after a gradient that
        # is not finite the images are not either, so those logits say nothing
        self._finite_logits &= torch.isfinite(logits.detach()).all() | ~self._finite_gradients
        if self._eager:
            # what a library does with NaN is not known, and it waits for the GPU at every step anyway
            self.raise_if_not_finite()
        return logits

    def _judge_gradient(self, gradient: Tensor) -> None:
        # the two ends tell of NaN and infinity too, and need no tensor of their own for it
        self._finite_gradients &= torch.isfinite(gradient.amin()) & torch.isfinite(gradient.amax())

    def raise_if_not_finite(self) -> None:
        """Raise `DataError` if any logit or gradient so far was NaN or infinite."""
        for finite, what in ((self._finite_logits, "logits"), (self._finite_gradients, "gradients")):
            if not bool(finite):
                raise DataError(
                    f"attack '{self._attack}': the model's {what} are NaN or infinite; its weights have diverged or "
                    "its normalisation is wrong: evaluate another checkpoint"
                )


@contextmanager
def _left_as_it_was(victim: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; afterwards everything about the victim as before.

    The flags are set one by one: `train()` and `eval()` may be overridden, and act on whole trees.
    """
    modes = [(module, module.training) for module in victim.modules()]
    frozen = [(parameter, parameter.requires_grad) for parameter in victim.parameters()]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in victim.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in frozen:
            parameter.requires_grad_(requires_grad)
        for module, name, buffer, version, values in buffers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(values)
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators of the CPU and of `device` seeded inside, and as before afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
