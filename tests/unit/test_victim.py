"""The fast copy of a model: the same logits, and the model itself untouched, whatever the model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchattacks
import torchvision
from torch import Tensor, nn

from limla.attacks.base import build_attack
from limla.models import memory, parts
from limla.models.convolutions import FrozenConv2d
from limla.models.memory import keep_large_activations
from limla.models.victim import TOLERANCE, prepare_victim
from tests.unit.convnets import ConvNet, assert_same_logits, eval_logits, images_of, lived_in


@pytest.mark.parametrize(
    ("name", "fused", "left", "activations"),
    [
        ("mobilenet_v2", 52, 0, 35),
        ("resnet18", 20, 0, 1),  # its blocks use one ReLU twice
        ("efficientnet_b0", 49, 0, 0),
        ("shufflenet_v2_x0_5", 56, 0, None),
        ("densenet121", 59, 62, None),  # its other norms stand before their convolution
        ("squeezenet1_1", 0, 0, 26),
    ],
)
def test_torchvision_models_are_fused(name: str, fused: int, left: int, activations: int | None) -> None:
    model = lived_in(torchvision.models.get_model(name, weights=None, num_classes=5), 48)
    images = images_of(48)
    victim = prepare_victim(model, "cpu", images[:2])
    assert (victim.fused_layers, victim.channels_last, victim.notes) == (fused, True, ())
    assert victim.splits
    assert sum(isinstance(module, nn.BatchNorm2d) for module in victim.modules()) == left
    frozen = [module for module in victim.modules() if isinstance(module, FrozenConv2d)]
    assert len(frozen) == victim.frozen_layers > 0
    if activations is not None:
        assert sum(layer.activation is not None for layer in frozen) == activations
    assert_same_logits(model, victim, images)
    with torch.no_grad():
        assert_same_logits(model, victim, images)


def test_convolutions_that_nothing_else_reads_become_chains() -> None:
    model = lived_in(torchvision.models.mobilenet_v2(weights=None, num_classes=5), 48)
    victim = prepare_victim(model, "cpu", images_of(48))
    layers = [module for module in victim.modules() if isinstance(module, FrozenConv2d)]
    followers = {id(follower) for layer in layers for follower in layer.followers}
    lengths = [1 + len(layer.followers) for layer in layers if id(layer) not in followers]
    # a block's own forward ends a chain: it may do anything with what it is given
    assert lengths == [1, 2, *[3] * 16, 1]


class Branching(nn.Module):
    """Leaves out its second convolution for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.first(images))
        if float(images.detach().mean()) < 0.5:
            maps = self.second(maps)
        return self.head(maps.mean((2, 3)))


class Damping(nn.Module):
    """Looks at the values that pass."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps * 0.1 if float(maps.detach().abs().max()) > 2 else maps


def with_damping() -> nn.Module:
    damping = Damping()  # the same twice: the children of a Sequential are listed once
    return nn.Sequential(
        damping, nn.Conv2d(3, 8, 3), damping, nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )  # fmt: skip


@pytest.mark.parametrize("build", [Branching, with_damping])
def test_what_the_example_does_not_show_stays_right(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    victim = prepare_victim(model, "cpu", 0.2 * images_of())
    assert victim.frozen_layers == 2
    assert_same_logits(model, victim, 0.2 * images_of())
    assert_same_logits(model, victim, 1 - 0.2 * images_of())
    assert_same_logits(model, victim, 1 + 20 * images_of())


def test_a_hook_on_a_block_sees_its_own_result() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_hook(lambda module, arguments, output: seen.append(tuple(output.shape)))
    victim = prepare_victim(model.eval(), "cpu", images_of())
    seen.clear()
    victim(images_of()).sum()
    assert set(seen) == {(len(images_of()), 8, 30, 30)}


def test_a_transformer_works_unfused() -> None:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(model.heads[0].weight)  # type: ignore[arg-type]
    victim = prepare_victim(model, "cpu", images_of())
    assert victim.fused_layers == 0
    assert_same_logits(model, victim, images_of())


def test_the_model_is_left_exactly_as_it_was() -> None:
    model = lived_in(ConvNet()).train()
    assert isinstance(model, ConvNet)
    model.bn1.eval()
    model.head.bias.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    strides = [parameter.stride() for parameter in model.parameters()]

    victim = prepare_victim(model, "cpu", images_of())

    assert victim.fused_layers == 2
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 8 + [False]
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    assert not any(module._forward_hooks for module in model.modules())
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    assert theirs.isdisjoint(parameter.data_ptr() for parameter in victim.parameters())


def test_the_copy_is_frozen_and_in_eval_mode() -> None:
    victim = prepare_victim(lived_in(ConvNet()).train(), "cpu", images_of())
    assert not any(parameter.requires_grad for parameter in victim.parameters())
    assert not any(module.training for module in victim.modules())
    assert not any(module._forward_hooks for module in victim.modules())
    assert victim(images_of()).requires_grad is False


def test_without_an_example_nothing_is_changed() -> None:
    model = lived_in(ConvNet())
    victim = prepare_victim(model)
    assert (victim.fused_layers, victim.channels_last) == (0, False)
    assert "no example" in victim.notes[0]
    assert torch.equal(victim(images_of()), eval_logits(model, images_of()))


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FrozenConv2d.image_gradient
    monkeypatch.setattr(FrozenConv2d, "image_gradient", lambda *arguments: 1.1 * right(*arguments))
    victim = prepare_victim(lived_in(ConvNet()), "cpu", images_of())
    assert victim.frozen_layers == 0
    assert "not frozen: image gradients differ" in victim.notes[0]
    assert victim.fused_layers == 2, "the other speed-ups stay"


def test_clean_passes_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 3 * 32 * 32 * 4)
    model, images = lived_in(ConvNet()), images_of(num_images=9)
    victim = prepare_victim(model, "cpu", images[:1])  # one image is enough to check that parts are right
    assert victim.splits
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            one = victim(images)
            torch.set_num_threads(2)
            assert torch.equal(victim(images), one)
    finally:
        torch.set_num_threads(before)
    expected = eval_logits(model, images)
    assert float((one - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def test_fast_attacks_are_the_plain_librarys() -> None:
    """Adversarial images of the fast copy of a trained model against torchattacks on the eager model.

    The sign of a gradient near zero turns with rounding, and each step of PGD carries that on, so a small
    fraction of the values may differ. (In an untrained network, which is chaotic, many do.)
    """
    torch.manual_seed(0)
    model = ConvNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)

    def batch(num_images: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 3, (num_images,), generator=generator)
        images = 0.3 + 0.3 * torch.rand(num_images, 3, 16, 16, generator=generator)
        images[torch.arange(num_images), labels] += 0.05
        return images, labels

    for _ in range(60):
        images, labels = batch(32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    images, labels = batch(32)
    assert bool((model(images).argmax(1) == labels).all())
    victim = prepare_victim(model, "cpu", images[:2])
    assert (victim.fused_layers, victim.channels_last) == (2, True)
    plain = {
        "fgsm": torchattacks.FGSM(model, eps=8 / 255),
        "pgd": torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10),
    }
    for name, least in (("fgsm", 0.995), ("pgd", 0.98)):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            expected = plain[name](images, labels)
        found = build_attack(name, {"eps": 8 / 255}).run(victim, images, labels, seed=7)
        equal = float(((found - expected).abs() <= 1e-5).float().mean())
        assert equal >= least, (name, equal)
        flipped = model(found).argmax(1) != labels
        assert torch.equal(flipped, model(expected).argmax(1) != labels), name
        assert bool(flipped.any()), f"{name} fooled nothing: the test says nothing"


def test_memory_is_kept_on_glibc_and_left_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    policy = keep_large_activations()
    assert not policy.active
    assert "not glibc" in policy.reason
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert "musl" in keep_large_activations().reason
