"""Any torchvision classification model by name, and where its ImageNet weights are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import nn

from limla.errors import SettingsError


def _normal_form(name: str) -> str:
    return re.sub(r"[-_\s.]", "", name).lower()


def names() -> list[str]:
    """The builders' names ("mobilenet_v2", "vgg16" …), sorted."""
    return torchvision.models.list_models(module=torchvision.models)


def find(name: str) -> str | None:
    """torchvision's name for "MobileNetV2", "VGG16", "EfficientNet-B0" …: case, '-', '_' and '.' do not matter."""
    return {_normal_form(known): known for known in names()}.get(_normal_form(name))


def build(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    """The model `name` (as `find` gives it) with its own head for `num_classes`, weights drawn at random.

    The head is torchvision's: dropout and a linear layer in MobileNetV2, the three-layer classifier in VGG16.
    Auxiliary classifiers (Inception, GoogLeNet) are left out. `image_size` is for the models whose layers
    depend on it (ViT, MaxViT); None is their 224.
    """
    extra: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # transform_input turns ImageNet's normalisation into the [-1, 1] their weights were trained on
        extra = {"aux_logits": False, "transform_input": True, "init_weights": True}
    elif image_size is not None and name.startswith("vit_"):
        extra = {"image_size": image_size}
    elif image_size is not None and name.startswith("maxvit"):
        extra = {"input_size": (image_size, image_size)}
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"model '{name}' cannot be built for images of {image_size} pixels: {error}; choose another image size"
        ) from error


def imagenet_weights(name: str) -> tuple[Path, tuple[float, ...], tuple[float, ...]]:
    """The file of torchvision's default ImageNet weights, and the mean and std they were trained with.

    limla never downloads: the file is looked for in torch's hub folder (`TORCH_HOME`).
    Raises `SettingsError` with the address when it is not there.
    """
    weights = torchvision.models.get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    if not path.is_file():
        raise SettingsError(
            f"the ImageNet weights of {name} are not on this machine: download {weights.url} on one with a "
            f"network and put it at {path}, or pass it as --weights FILE"
        )
    transforms = weights.transforms()
    return path, tuple(transforms.mean), tuple(transforms.std)
