"""A fast copy of a model for evaluation and attacks: eval mode, no parameter gradients, fused, channels last.

Convolution + batch norm pairs are found by watching one batch go through the model and reading the autograd
graph, not by re-writing the model's code: data-dependent control flow, hooks and custom forwards stay as they
are. Every change is kept only if the logits of that batch stay the same; otherwise the copy goes without it
and says so.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from limla.models.convolutions import ACTIVATIONS, FrozenConv2d
from limla.models.parts import BatchParts, Work, copy_sharing_parameters
from limla.models.readers import MODEL_ERRORS, candidates, neighbours, reader_pairs, replace_layer

TOLERANCE = 1e-4
"""Largest allowed |Δlogit|, relative to the largest |logit| of the batch."""

GRADIENT_TOLERANCE = 1e-2
"""Largest allowed ‖Δgradient‖₂ of the images, relative to ‖gradient‖₂: rounding may close a ReLU here and there."""


class Victim(nn.Module):
    """[0, 1] images → (N, C) logits, as the model it was copied from.

    Attributes:
        model: the copy.
        fused_layers: convolutions that took over their batch norm.
        channels_last: whether it computes in the NHWC memory layout.
        frozen_layers: convolutions computed as `FrozenConv2d`.
        splits: whether it may compute a batch in parts, because its images do not influence each other.
        notes: what was left out and why, for logs.
    """

    def __init__(
        self,
        model: nn.Module,
        fused_layers: int,
        channels_last: bool,
        notes: tuple[str, ...],
        splits: bool = False,
        frozen_layers: int = 0,
    ) -> None:
        super().__init__()
        # frozen convolutions change the layout themselves, after layers that are faster in that of the images
        self.model = _Layout(model) if channels_last and not frozen_layers else model
        self.fused_layers = fused_layers
        self.channels_last = channels_last
        self.frozen_layers = frozen_layers
        self.splits = splits
        self.notes = notes
        self._parts = BatchParts(self.model)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in [0, 1] → (N, C) logits; without gradients in parts, as `run_parts`."""
        # autocast and inference mode belong to the calling thread, and so does a backward pass
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu"):
            return self.model(images)
        return self.run_parts(lambda model, part: model(part), images)

    def run_parts(self, work: Work, *tensors: Tensor) -> Tensor:
        """`work(model, images, …)` on parts of a batch, results put together: see `BatchParts.run`.

        As one part, in the calling thread, when the images influence each other (`splits` is False).
        """
        return self._parts.run(work, *tensors) if self.splits else work(self.model, *tensors)


class _Layout(nn.Module):
    """A model that is given its images in the channels-last layout."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images.contiguous(memory_format=torch.channels_last))


def prepare_victim(
    model: nn.Module, device: str | torch.device = "cpu", example: Tensor | None = None
) -> Victim:
    """A fast evaluation copy of `model` on `device`; the model itself is left exactly as it was.

    Args:
        model: [0, 1] NCHW float32 images → (N, C) logits; any `nn.Module`.
        device: where the copy lives.
        example: (N, 3, H, W) float32 images in [0, 1] of the size to come, two or more are enough. Without it
            nothing can be checked, so the copy is neither fused nor channels-last.

    The copy's logits on `example` differ from the model's in eval mode by at most `TOLERANCE`. Never raises
    because a speed-up does not suit the model; it raises what the model itself raises on `example`.
    """
    plain = _plain_copy(model, device)
    if example is None:
        return Victim(plain, 0, False, ("no example batch: neither fused nor channels-last",))
    images = example.detach().to(device)
    with torch.no_grad():
        reference = plain(images)
    if not (isinstance(reference, Tensor) and bool(torch.isfinite(reference).all())):
        return Victim(plain, 0, False, ("its logits on the example are no finite tensor: left as it is",))
    notes: list[str] = []
    best, fused_layers = plain, 0
    pairs = _conv_norm_pairs(plain, images)
    if pairs:
        fused = copy.deepcopy(plain)
        _fuse(fused, pairs)
        problem = _difference(fused, images, reference)
        if problem is None:
            best, fused_layers = fused, len(pairs)
        else:
            notes.append(f"batch norms are not fused: {problem}")
    _set_layout(best, torch.channels_last)
    problem = _difference(best, images.contiguous(memory_format=torch.channels_last), reference)
    if problem is not None:
        _set_layout(best, torch.contiguous_format)
        notes.append(f"not channels-last: {problem}")
    channels_last = problem is None
    frozen_layers = 0
    if channels_last and images.is_cpu and torch.backends.mkldnn.is_available():
        try:
            frozen, frozen_layers = _with_frozen_convolutions(best, images)
            problem = _difference(frozen, images, reference) or _gradient_difference(frozen, best, images)
        except MODEL_ERRORS as error:
            frozen, problem = best, _first_line(error)
        if problem is None:
            best = frozen
        else:
            frozen_layers = 0
            notes.append(f"convolutions are not frozen: {problem}")
    problem = _mixing(Victim(best, fused_layers, channels_last, (), frozen_layers=frozen_layers), images)
    if problem is not None:
        notes.append(f"batches are not split: {problem}")
    return Victim(best, fused_layers, channels_last, tuple(notes), problem is None, frozen_layers)


def _with_frozen_convolutions(model: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """A copy whose convolutions are `FrozenConv2d`, with the activations and convolutions behind them; how many."""
    frozen = copy.deepcopy(model)
    activation_of = dict(reader_pairs(frozen, images, (nn.Conv2d,), ACTIVATIONS))
    layers = candidates(frozen, (nn.Conv2d,), FrozenConv2d.suits)
    for name, layer in layers.items():
        assert isinstance(layer, nn.Conv2d)
        follower = activation_of.get(name)
        replace_layer(frozen, name, FrozenConv2d(layer, frozen.get_submodule(follower) if follower else None))
        if follower:
            replace_layer(frozen, follower, nn.Identity())
    pairs = reader_pairs(frozen, images, (FrozenConv2d,), (FrozenConv2d,))
    follower_of = dict(neighbours(frozen, FrozenConv2d).intersection(pairs))
    for name in follower_of.keys() - follower_of.values():
        first, follower = frozen.get_submodule(name), follower_of.get(name)
        assert isinstance(first, FrozenConv2d)
        while follower is not None:
            first.followers.append(frozen.get_submodule(follower))
            replace_layer(frozen, follower, nn.Identity())
            follower = follower_of.get(follower)
    return frozen, len(layers)


def _gradient_difference(changed: nn.Module, model: nn.Module, images: Tensor) -> str | None:
    """How the two models' image gradients differ; None if they hardly do or there is none."""

    def gradient(of: nn.Module) -> Tensor | None:
        probe = images.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = of(probe)
            if not (logits.is_floating_point() and logits.requires_grad):
                return None
            # different weights, so that classes do not cancel out
            weights = torch.linspace(-1, 1, logits[0].numel(), device=logits.device).reshape(logits[0].shape)
            return torch.autograd.grad((logits * weights).sum(), probe, allow_unused=True)[0]

    found, expected = gradient(changed), gradient(model)
    if found is None or expected is None:
        return None if found is expected else "gradients appear or vanish"
    error, scale = float((found - expected).norm()), float(expected.norm())
    # written so that NaN counts as a difference; a model that gives NaN by itself is the attack's to report
    if error <= GRADIENT_TOLERANCE * scale or not bool(torch.isfinite(expected).all()):
        return None
    return f"image gradients differ by {error:.1e} of {scale:.1e}"


@torch.no_grad()
def _mixing(victim: Victim, images: Tensor) -> str | None:
    """Why the batch cannot be computed in parts by copies; None if it can."""
    if len(images) == 1:
        # a batch to tell from its parts needs another image
        images = torch.cat([images, images.flip(3)])
    whole = victim(images)
    try:
        part_model = copy_sharing_parameters(victim)
        logits = torch.cat([part_model(image) for image in images.split(1)])
    except MODEL_ERRORS as error:
        return _first_line(error)
    return _deviation(logits, whole)


def _plain_copy(model: nn.Module, device: str | torch.device) -> nn.Module:
    """A frozen deep copy in eval mode on `device`."""
    # tensors computed from parameters (weight_norm, spectral_norm) are attributes that deepcopy refuses; the
    # module's own hook computes them again at each forward
    computed: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    plain = copy.deepcopy(model, computed).to(device)
    for module in plain.modules():
        module.training = False
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return plain


def _set_layout(model: nn.Module, layout: torch.memory_format) -> None:
    # `Module.to(memory_format=channels_last)` refuses models that also hold 5-D parameters
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _difference(changed: nn.Module, images: Tensor, reference: Tensor) -> str | None:
    """Why `changed` does not stand for the model that gave `reference`; None if it does, backward included."""
    try:
        probe = images.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = changed(probe)
            if reference.is_floating_point() and logits.requires_grad:
                # a layout can suit the forward pass and not the backward
                torch.autograd.grad(logits.sum(), probe, allow_unused=True)
    except MODEL_ERRORS as error:
        return _first_line(error)
    return _deviation(logits, reference)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _deviation(logits: Any, reference: Tensor) -> str | None:
    """How `logits` are more than `TOLERANCE` from `reference`; None if they are not."""
    if not isinstance(logits, Tensor) or logits.shape != reference.shape:
        return "the output changes its shape"
    scale = float(reference.abs().max()) if reference.numel() else 0.0
    error = float((logits.detach() - reference).abs().max()) if reference.numel() else 0.0
    # written so that NaN counts as a difference
    return None if error <= TOLERANCE * max(scale, 1e-6) else f"logits differ by {error:.1e} of {scale:.1e}"


def _conv_norm_pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) pairs where the norm is all that reads the convolution's output."""
    pairs = reader_pairs(model, images, (nn.Conv2d,), (nn.BatchNorm2d,))
    return [
        (conv, norm) for conv, norm in pairs if _folds(model.get_submodule(conv), model.get_submodule(norm))
    ]


def _folds(conv: nn.Module, norm: nn.Module) -> bool:
    assert isinstance(norm, nn.BatchNorm2d)
    has_statistics = norm.running_mean is not None and norm.running_var is not None
    return has_statistics and getattr(conv, "out_channels", None) == norm.num_features


@torch.no_grad()
def _fuse(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold each batch norm into its convolution (in float64) and put an identity in its place."""
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight.double(),
            None if conv.bias is None else conv.bias.double(),
            norm.running_mean.double(),
            norm.running_var.double(),
            norm.eps,
            None if norm.weight is None else norm.weight.double(),
            None if norm.bias is None else norm.bias.double(),
        )
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
        replace_layer(model, norm_name, nn.Identity())
