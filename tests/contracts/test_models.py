"""What holds for every model that `build_model` knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from limla.errors import SettingsError, UnknownNameError
from limla.models import torchvision
from limla.models.base import (
    ModelInfo,
    Normalise,
    build_model,
    canonical_name,
    head_name,
    model_names,
    with_normalisation,
)
from limla.models.checkpoint import load_checkpoint, save_checkpoint
from limla.types import Preprocessing

SMALL = (
    "compact",
    "MobileNetV2",
    "squeezenet1_1",
    "ResNet18",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "regnet_y_400mf",
    "EfficientNet-B0",
)


@pytest.mark.parametrize("name", SMALL)
def test_images_become_logits_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 7, image_size=64)
    assert isinstance(model.get_submodule("normalise"), Normalise)
    assert next(iter(model.children())) is model.get_submodule("normalise"), "normalisation is the first layer"
    images = torch.rand(3, 3, 64, 64)
    logits = model.train()(images)
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    (logits.exp().sum() + logits.square().sum()).backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    model = build_model(name, 4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), image_size=64)
    with torch.no_grad():
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.uniform_(-0.1, 0.1)
    preprocessing = Preprocessing(image_size=64)
    names = ("a", "b", "c", "d")
    info = ModelInfo(
        canonical_name(name), 4, names, preprocessing, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "toy", "jpeg", "10", 3
    )
    save_checkpoint(tmp_path / "best.pt", model, info)
    loaded = load_checkpoint(tmp_path / "best.pt")
    assert loaded.info == info
    assert not loaded.model.training
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model.eval()(images))


@pytest.mark.parametrize("name", SMALL)
def test_a_frozen_backbone_leaves_the_head_alone(name: str) -> None:
    model = build_model(name, 6, freeze_backbone=True)
    head = head_name(model, 6)
    assert head is not None
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{head}.weight", f"{head}.bias"}
    assert model.get_submodule(head).weight.shape[0] == 6  # pyright: ignore


# RegNet computes its widths with tensors, which have no values on the meta device; one stands for all below
@pytest.mark.parametrize("name", [name for name in torchvision.names() if not name.startswith("regnet")])
def test_every_torchvision_classifier_has_a_head_for_the_classes(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.build(name, 11, None)
    head = head_name(model, 11)
    assert head is not None
    assert "aux" not in head.lower()


def test_the_first_layer_normalises_as_torchvision_does() -> None:
    from torchvision.transforms.functional import normalize

    images = torch.rand(2, 3, 5, 4)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = with_normalisation(nn.Identity(), mean, std)
    assert torch.allclose(model(images), normalize(images, mean, std), atol=1e-7)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("MobileNetV2", "mobilenet_v2"),
        ("mobilenet-v2", "mobilenet_v2"),
        ("VGG16", "vgg16"),
        ("ResNet50", "resnet50"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("Compact", "compact"),
        ("my.models:net", "my.models:net"),
    ],
)
def test_names_as_people_write_them(typed: str, meant: str) -> None:
    assert canonical_name(typed) == meant
    assert meant in model_names() or ":" in meant


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"mobilnetv2.*did you mean mobilenet_v2"):
        build_model("mobilnetv2", 5)


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("alexnet", 32, "32x32 pixels.*choose another image size"),
        ("vit_b_32", 65, "65 pixels.*choose another image size"),
    ],
)
def test_an_image_too_small_is_said_before_training(name: str, image_size: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build_model(name, 5, image_size=image_size)


def test_missing_imagenet_weights_name_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match=r"https://\S+/mobilenet_v2-7ebf99e0\.pth .*--weights FILE"):
        build_model("MobileNetV2", 5, weights="imagenet")


def test_imagenet_weights_in_the_hub_folder_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    original = torchvision.build("squeezenet1_1", 1000, None)
    path = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir(parents=True)
    torch.save(original.state_dict(), path)
    model = build_model("squeezenet1_1", 5, weights="imagenet")
    assert torch.equal(
        model.get_parameter("backbone.features.0.weight"), original.get_parameter("features.0.weight")
    )
    assert model.get_parameter("backbone.classifier.1.weight").shape[0] == 5


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((0.5,), (0.5,), "three numbers"), ((123.7, 116.8, 103.9), (58.0, 57.0, 57.0), "divided by 255"),
     ((0.5, 0.5, 0.5), (0.0, 1.0, 1.0), "above 0")],
)  # fmt: skip
def test_a_wrong_normalisation_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Normalise(mean, std)
