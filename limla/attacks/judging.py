"""What surrounds an attack: a victim whose outputs are judged, left as it was, and random numbers from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limla.errors import DataError, SettingsError


class JudgedVictim(nn.Module):
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
def left_as_it_was(victim: nn.Module) -> Iterator[None]:
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
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators of the CPU and of `device` seeded inside, and as before afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
