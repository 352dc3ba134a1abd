"""The fast copy of users' models, which have habits of their own: the same logits, or the speed-up stays away."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limla.attacks.base import build_attack
from limla.models.victim import TOLERANCE, prepare_victim
from tests.unit.convnets import ConvNet, assert_same_logits, eval_logits, images_of, lived_in


class Branching(ConvNet):
    """torch.fx cannot trace control flow that depends on the data."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if float(features.detach().mean()) > 1e6:
            features = features * 0
        for _ in range(int(images.shape[0] > 1)):
            features = features + 1
        return self.head(features.mean(dim=(2, 3)))


class Viewing(ConvNet):
    """`view` refuses a channels-last tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 32 * 32, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).view(-1, 8 * 32 * 32))


class SecondReader(ConvNet):
    """The convolution's raw output is read a second time, so its norm must not be folded into it."""

    def forward(self, images: Tensor) -> Tensor:
        raw = self.conv1(images)
        hidden = torch.relu(self.bn1(raw)) + raw
        return self.head(torch.relu(self.bn2(self.conv2(hidden))).mean(dim=(2, 3)))


class HiddenReader(ConvNet):
    """As above, through a detached path that the autograd graph does not show."""

    def forward(self, images: Tensor) -> Tensor:
        raw = self.conv1(images)
        hidden = torch.relu(self.bn1(raw)) + raw.detach()
        return self.head(torch.relu(self.bn2(self.conv2(hidden))).mean(dim=(2, 3)))


class CalledTwice(ConvNet):
    def features(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(images)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return torch.relu(self.bn2(self.conv2(hidden)))


class Shared(ConvNet):
    """Two convolutions share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3.weight = self.conv2.weight

    def features(self, images: Tensor) -> Tensor:
        return self.conv3(super().features(images))


class OwnNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) * 2


class Subclassed(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.bn2 = OwnNorm(8)


class BatchStatistics(ConvNet):
    """A batch norm that has no running statistics normalises by the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8, track_running_stats=False)


class NoAffine(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8, affine=False)


class AsksTheNorm(ConvNet):
    """Reads an attribute that an identity in the norm's place does not have."""

    def forward(self, images: Tensor) -> Tensor:
        assert self.bn2.num_features == 8
        return super().forward(images)


class WeightNormed(ConvNet):
    """The old weight_norm keeps a computed tensor that deepcopy refuses."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv2 = nn.utils.weight_norm(self.conv2)


class Parametrized(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.utils.parametrizations.weight_norm(self.conv2)


class SpatioTemporal(ConvNet):
    """5-D parameters cannot be channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv3d(8, 8, 1)

    def features(self, images: Tensor) -> Tensor:
        return self.conv3(super().features(images).unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize(
    ("kind", "fused", "channels_last", "note"),
    [
        (Branching, 2, True, "not split: logits differ"),
        (Viewing, 2, False, "not channels-last: RuntimeError"),
        (SecondReader, 1, True, ""),
        (HiddenReader, 0, True, "not fused: logits differ"),
        (CalledTwice, 1, True, ""),
        (Shared, 1, True, ""),
        (Subclassed, 1, True, ""),
        (BatchStatistics, 1, True, "not split: logits differ"),
        (NoAffine, 2, True, ""),
        (AsksTheNorm, 0, True, "not fused: AttributeError"),
        (WeightNormed, 1, True, ""),
        (Parametrized, 1, True, ""),
        (SpatioTemporal, 2, True, ""),
    ],
)
def test_models_with_habits(kind: type[ConvNet], fused: int, channels_last: bool, note: str) -> None:
    torch.manual_seed(0)
    model = lived_in(kind())
    images = images_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # deepcopy refuses weight_norm, so the reference is a second model of the same weights
        reference = kind()
        reference.load_state_dict(model.state_dict())
    expected = reference.eval()(images).detach()
    victim = prepare_victim(model, "cpu", images)
    assert victim.fused_layers == fused
    assert victim.channels_last is channels_last
    assert note in " ".join(victim.notes)
    assert bool(note) == bool(victim.notes)
    assert float((victim(images) - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
    adversarial = build_attack("fgsm", {"eps": 8 / 255}).run(victim, images, torch.tensor([0, 1, 2]), seed=0)
    assert not torch.equal(adversarial, images)


def test_hooks_still_run_and_keep_their_layer_unfused() -> None:
    model = lived_in(ConvNet())
    assert isinstance(model, ConvNet)
    model.conv1.register_forward_hook(lambda module, arguments, output: output * 2)
    victim = prepare_victim(model, "cpu", images_of())
    assert victim.fused_layers == 1
    assert_same_logits(model, victim, images_of())


@pytest.mark.parametrize(
    "outputs",
    [lambda logits: {"logits": logits}, lambda logits: logits * float("nan"), lambda logits: logits.argmax(1)],
)
def test_outputs_that_are_no_logits_are_passed_on(outputs: Any) -> None:
    class Odd(ConvNet):
        def forward(self, images: Tensor) -> Any:
            return outputs(super().forward(images))

    model = lived_in(Odd())
    victim = prepare_victim(model, "cpu", images_of())
    found, expected = victim(images_of()), eval_logits(model, images_of())
    assert type(found) is type(expected)
