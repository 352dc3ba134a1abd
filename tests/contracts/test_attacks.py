"""What every attack of the catalogue must hold to: its images, its parameters, its strength."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from limla.attacks.base import build_attack, project
from limla.errors import SettingsError, UnknownNameError
from limla.plans import ATTACK_KNOWLEDGE
from tests.contracts.victims import EPS, NAMES, REAL, SmallNet, batch, labelled_images, make, trained

__all__ = ["batch", "trained"]  # fixtures


@pytest.mark.parametrize("name", NAMES)
def test_catalogue_entry_keeps_its_word(name: str) -> None:
    attack = make(name)
    assert attack.name == name
    assert attack.norm in ("", "linf", "l2")
    assert (attack.norm == "") == (name == "none")
    assert attack.knowledge == ATTACK_KNOWLEDGE[name]
    settings = attack.settings()
    assert "eps" not in settings, "eps has its own column"
    assert all(isinstance(value, int | float | str | bool) for value in settings.values())
    assert type(attack).__doc__
    assert inspect.getmodule(type(attack)).__name__ == f"limla.attacks.{name}"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.3])
def test_result_stays_in_the_ball_and_in_range(name: str, eps: float, trained: nn.Module) -> None:
    images, labels = labelled_images(24, seed=7)
    images[0] = 0.0
    images[1] = 1.0
    adversarial = make(name, eps).run(trained, images, labels, seed=3)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == torch.float32
    assert torch.isfinite(adversarial).all()
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    difference = (adversarial - images).flatten(1)
    order = float("inf") if make(name, eps).norm == "linf" else 2
    distance = torch.linalg.vector_norm(difference, ord=order, dim=1)
    assert float(distance.max()) <= eps + 1e-6
    assert float(distance[2:].min()) > 0.5 * eps, "an attack that hardly moves is none"


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


@pytest.mark.parametrize("name", REAL)
def test_loss_rises_and_accuracy_falls_to_nothing(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch

    def judge(inputs: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            logits = trained(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        return float(loss), float((logits.argmax(1) == labels).float().mean())

    clean_loss, clean_accuracy = judge(images)
    assert clean_accuracy >= 0.95
    small_loss, _ = judge(make(name, 1 / 255).run(trained, images, labels, seed=0))
    large = make(name, 16 / 255)  # within what PGD's ten default steps can cross
    large_loss, large_accuracy = judge(large.run(trained, images, labels, seed=0))
    assert clean_loss < small_loss < large_loss
    assert large_accuracy <= 0.05


def test_pgd_is_at_least_as_strong_as_fgsm(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch

    def robust(name: str, eps: float) -> float:
        with torch.no_grad():
            adversarial = make(name, eps).run(trained, images, labels, seed=0)
            return float((trained(adversarial).argmax(1) == labels).float().mean())

    radii = [number / 255 for number in range(2, 13)]
    pairs = [(robust("pgd", eps), robust("fgsm", eps)) for eps in radii]
    assert all(pgd <= fgsm for pgd, fgsm in pairs), pairs
    assert any(0 < fgsm < 1 for _, fgsm in pairs), "no radius tells the two apart"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 1, 5, 7), (3, 3, 9, 4), (0, 3, 8, 8)])
def test_odd_shapes(name: str, shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    model = SmallNet(channels=shape[1]).eval()
    images = torch.rand(shape)
    labels = torch.zeros(shape[0], dtype=torch.int64)
    adversarial = make(name).run(model, images, labels, seed=0)
    assert adversarial.shape == shape
    assert shape[0] == 0 or float((adversarial - images).abs().max()) <= EPS + 1e-6


@pytest.mark.parametrize("name", REAL)
def test_channels_last_images_give_the_same_attack(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    usual = make(name).run(trained, images, labels, seed=0)
    reordered = make(name).run(trained, images.contiguous(memory_format=torch.channels_last), labels, seed=0)
    assert float(((usual - reordered).abs() <= 1e-5).float().mean()) >= 0.99


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "pdg", "eps": EPS}, UnknownNameError, "known: none, fgsm, pgd. Did you mean 'pgd'"),
        ({"name": "none", "eps": EPS}, SettingsError, "'none' takes no eps; it takes no parameters"),
        ({"name": "fgsm"}, SettingsError, "'fgsm' needs eps"),
        ({"name": "fgsm", "eps": EPS, "steps": 3}, SettingsError, "'fgsm' takes no steps; it takes eps"),
        (
            {"name": "fgsm", "eps": EPS, "steps": 3, "alpha": 0.1},
            SettingsError,
            "takes no steps and no alpha",
        ),
        ({"name": "fgsm", "eps": 8.0}, SettingsError, "eps 8 of attack 'fgsm' is out of range.*8/255"),
        ({"name": "pgd", "eps": -0.1}, SettingsError, "eps -0.1"),
        ({"name": "pgd", "eps": float("nan")}, SettingsError, "eps nan"),
        ({"name": "pgd", "eps": EPS, "steps": 0}, SettingsError, "0 steps"),
        ({"name": "pgd", "eps": EPS, "alpha": 0.0}, SettingsError, "alpha 0 "),
        ({"name": "pgd", "eps": EPS, "alpha": -1.0}, SettingsError, "alpha -1 "),
        ({"name": "pgd", "eps": EPS, "alpha": float("inf")}, SettingsError, "alpha inf"),
    ],
)
def test_parameters_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    name = arguments.pop("name")
    with pytest.raises(error, match=message):
        build_attack(name, arguments)


def test_pgd_takes_its_steps_and_step_length(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    calls = 0

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return trained(images)

    attack = build_attack("pgd", {"eps": EPS, "steps": 7, "alpha": 1 / 255})
    assert attack.settings() == {"alpha": 1 / 255, "random_start": True, "steps": 7}
    attack.run(Counting(), *batch, seed=0)
    assert calls == 7
    assert build_attack("pgd", {"eps": EPS}).settings() == {"alpha": 2 / 255, "random_start": True, "steps": 10}


@pytest.mark.parametrize("num_images", [24, 7])
@pytest.mark.parametrize("name", REAL)
def test_results_are_torchattacks_own(name: str, num_images: int, trained: nn.Module) -> None:
    images, labels = labelled_images(num_images, seed=1000)
    theirs = {
        "fgsm": torchattacks.FGSM(trained, eps=EPS),
        "pgd": torchattacks.PGD(trained, eps=EPS, alpha=2 / 255, steps=10, random_start=True),
    }[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = theirs(images, labels)
    found = make(name).run(trained, images, labels, seed=5)
    assert float(((found - expected).abs() <= 1e-5).float().mean()) >= 0.99
    assert torch.equal(trained(found).argmax(1), trained(expected).argmax(1))


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
