"""What every attack of the catalogue must hold to: its images, its parameters, its strength."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from limla.attacks.base import build_attack, project
from limla.plans import ATTACK_KNOWLEDGE
from limla.registry import ATTACKS
from tests.contracts.victims import (
    ATTACKING,
    NAMES,
    NOISE,
    REAL,
    SmallNet,
    accuracy,
    batch,
    catalogue_name,
    distances,
    labelled_images,
    make,
    trained,
)

__all__ = ["batch", "trained"]  # fixtures

STAY = ("cw", "square", "autoattack")
"""Attacks that leave the images they cannot fool the model with as they are."""
CLIMBING = [name for name in ATTACKING if catalogue_name(name) not in STAY]


@pytest.mark.parametrize("name", NAMES)
def test_catalogue_entry_keeps_its_word(name: str) -> None:
    attack = make(name)
    plug = catalogue_name(name)
    assert attack.name == plug
    assert attack.norm in ("", "linf", "l2")
    assert (attack.norm == "") == (name == "none")
    settings = attack.settings()
    assert "eps" not in settings, "eps has its own column"
    assert all(isinstance(value, int | float | str | bool) for value in settings.values())
    assert type(attack).__doc__
    module = inspect.getmodule(type(attack))
    assert module is not None
    assert module.__name__ == f"limla.attacks.{plug.replace('-', '_')}"
    again = build_attack(plug, attack.parameters())
    assert vars(again) == vars(attack)
    assert again.settings() == settings


def test_what_attacks_know_is_told_without_torch() -> None:
    assert {name: ATTACKS.load(name).knowledge for name in ATTACKS.names()} == ATTACK_KNOWLEDGE


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.3])
def test_result_stays_in_the_ball_and_in_range(name: str, eps: float, trained: nn.Module) -> None:
    images, labels = labelled_images(24, seed=7)
    images[0] = 0.0
    images[1] = 1.0
    attack = make(name, eps)
    adversarial = attack.run(trained, images, labels, seed=3)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.float32
    assert torch.isfinite(adversarial).all()
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    distance = distances(attack, adversarial, images)
    assert float(distance.max()) <= attack.eps * (1 + 1e-6) + 1e-6
    if catalogue_name(name) not in STAY:
        assert float(distance[2:].min()) > 0.5 * attack.eps, "an attack that hardly moves is none"


@pytest.mark.parametrize("name", ["square", "autoattack"])
def test_images_that_withstand_stay_as_they_are(name: str, trained: nn.Module) -> None:
    images, labels = labelled_images(24, seed=7)
    attack = make(name, 4.5 / 255)
    adversarial = attack.run(trained, images, labels, seed=3)
    fooled = trained(adversarial).argmax(1) != labels
    assert 0 < int(fooled.sum()) < 24
    assert torch.equal(fooled, distances(attack, adversarial, images) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seed_gives_equal_images_whatever_the_global_state(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack = make(name)
    torch.manual_seed(1)
    first = attack.run(trained, *batch, seed=5)
    torch.manual_seed(2)
    with torch.no_grad():
        second = attack.run(trained, *batch, seed=5)
    other = attack.run(trained, *batch, seed=6)
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (not attack.uses_seed)


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_and_grad_mode_are_left_alone(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with torch.no_grad():
        make(name).run(trained, *batch, seed=5)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_batch_is_left_untouched_and_not_aliased(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    images_before, labels_before = images.clone(), labels.clone()
    adversarial = make(name).run(trained, images, labels, seed=0)
    adversarial.zero_()
    assert torch.equal(images, images_before)
    assert torch.equal(labels, labels_before)
    assert not images.requires_grad


@pytest.mark.parametrize("name", REAL)
def test_eps_zero_returns_the_images_exactly(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    assert torch.equal(make(name, 0.0).run(trained, *batch, seed=0), batch[0])


@pytest.mark.parametrize("name", ATTACKING)
def test_loss_rises_and_accuracy_falls_to_nothing(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch

    def loss(inputs: Tensor) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(trained(inputs), labels))

    assert accuracy(trained, images, labels) >= 0.95
    small = make(name, 1 / 255).run(trained, images, labels, seed=0)
    large = make(name, 16 / 255).run(trained, images, labels, seed=0)
    assert loss(images) <= loss(small) < loss(large)
    assert loss(images) < loss(small) or name not in CLIMBING
    assert accuracy(trained, large, labels) <= 0.05


@pytest.mark.parametrize("name", ATTACKING)
def test_success_grows_with_eps(name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    found = [
        accuracy(trained, make(name, eps / 255).run(trained, *batch, seed=0), batch[1]) for eps in (3, 5, 6, 12)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("eps", [4 / 255, 16 / 255])
def test_noise_is_weaker_than_every_attack(
    name: str, eps: float, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    noise = make(name, eps)
    noisy = noise.run(trained, *batch, seed=0)
    others = [attack for attack in ATTACKING if make(attack).norm == noise.norm]
    assert others
    for other in others:
        attacked = make(other, eps).run(trained, *batch, seed=0)
        assert accuracy(trained, attacked, batch[1]) <= accuracy(trained, noisy, batch[1]), other
    assert accuracy(trained, noisy, batch[1]) >= 0.9


@pytest.mark.parametrize("name", ["pgd", "pgd:restarts=2", "mifgsm", "autoattack"])
def test_many_steps_are_at_least_as_strong_as_one(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    def robust(name: str, eps: float) -> float:
        return accuracy(trained, make(name, eps).run(trained, *batch, seed=0), batch[1])

    radii = [number / 255 for number in range(2, 13, 2)]
    pairs = [(robust(name, eps), robust("fgsm", eps)) for eps in radii]
    assert all(many <= one for many, one in pairs), pairs
    assert any(0 < one < 1 for _, one in pairs), "no radius tells the two apart"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 1, 5, 7), (3, 3, 9, 4), (0, 3, 8, 8)])
def test_odd_shapes(name: str, shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    model = SmallNet(channels=shape[1]).eval()
    images = torch.rand(shape)
    labels = torch.zeros(shape[0], dtype=torch.int64)
    attack = make(name)
    adversarial = attack.run(model, images, labels, seed=0)
    assert adversarial.shape == shape
    assert shape[0] == 0 or float(distances(attack, adversarial, images).max()) <= attack.eps + 1e-6


@pytest.mark.parametrize("name", REAL)
def test_channels_last_images_give_the_same_attack(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    usual = make(name).run(trained, images, labels, seed=0)
    reordered = make(name).run(trained, images.contiguous(memory_format=torch.channels_last), labels, seed=0)
    assert float(((usual - reordered).abs() <= 1e-5).float().mean()) >= 0.99


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_the_nearest_point_of_the_ball(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.02 * torch.rand(6, 3, 4, 4, generator=generator)
    outside = images + torch.randn(images.shape, generator=generator)
    projected = project(outside, images, norm, eps=0.1)
    difference = (projected - images).flatten(1)
    if norm == "linf":
        assert torch.allclose(difference, (outside - images).flatten(1).clamp(-0.1, 0.1), atol=1e-6)
    else:
        assert torch.allclose(difference.norm(dim=1), torch.full((6,), 0.1), atol=1e-5)
        direction = nn.functional.cosine_similarity(difference, (outside - images).flatten(1))
        assert torch.allclose(direction, torch.ones(6), atol=1e-5)
    inside = images + 1e-3
    assert torch.allclose(project(inside, images, norm, eps=0.1), inside)
    assert torch.equal(project(images, images, norm, eps=0.1), images)
