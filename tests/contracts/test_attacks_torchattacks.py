"""Attacks held to torchattacks' own results for the same seed, where limla delegates to it or computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from limla.attacks.autoattack import _TargetedApgd
from limla.attacks.base import build_attack
from limla.attacks.pgd import Pgd
from tests.contracts.victims import EPS, accuracy, batch, labelled_images, trained

__all__ = ["batch", "trained"]  # fixtures
LENGTH = 0.5


class _LikeTorchattacks(Pgd):
    """PGD with the start that `torchattacks.PGDL2` draws, whose radius is uniform."""

    def _draw(self, images: Tensor) -> Tensor:
        noise = torch.empty_like(images).normal_()
        norms = noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        noise *= torch.zeros_like(norms).uniform_(0, 1) / norms * self.eps
        return (images + noise).clamp(0, 1)


def check_equal(found: Tensor, expected: Tensor, model: nn.Module) -> None:
    assert float(((found - expected).abs() <= 1e-5).float().mean()) >= 0.99
    assert torch.equal(model(found).argmax(1), model(expected).argmax(1))


def seeded(attack: Any, images: Tensor, labels: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return attack(images, labels)


@pytest.mark.parametrize("num_images", [24, 7])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "square"])
def test_results_are_torchattacks_own(name: str, num_images: int, trained: nn.Module) -> None:
    images, labels = labelled_images(num_images, seed=1000)
    theirs = {
        "fgsm": torchattacks.FGSM(trained, eps=EPS),
        "pgd": torchattacks.PGD(trained, eps=EPS, alpha=2 / 255, steps=10, random_start=True),
        "mifgsm": torchattacks.MIFGSM(trained, eps=EPS, alpha=2 / 255, steps=10, decay=1.0),
        "square": torchattacks.Square(trained, eps=EPS, n_queries=100, seed=5),
    }[name]
    expected = seeded(theirs, images, labels)
    given: dict[str, float] = {
        "mifgsm": {"eps": EPS, "alpha": 2 / 255},
        "square": {"eps": EPS, "n_queries": 100},
    }.get(name, {"eps": EPS})
    found = build_attack(name, given).run(trained, images, labels, seed=5)
    check_equal(found, expected, trained)


def test_targeted_pgd_is_torchattacks_own(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    theirs = torchattacks.PGD(trained, eps=EPS, alpha=2 / 255, steps=10, random_start=True)
    theirs.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 3, quiet=True)
    found = build_attack("pgd", {"eps": EPS, "target": "next"}).run(trained, *batch, seed=5)
    check_equal(found, seeded(theirs, *batch), trained)


def test_pgd_in_l2_is_torchattacks_own(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    theirs = torchattacks.PGDL2(trained, eps=LENGTH, alpha=0.1, steps=10, random_start=True)
    ours = _LikeTorchattacks(LENGTH, steps=10, alpha=0.1, norm="l2")
    check_equal(ours.run(trained, *batch, seed=5), seeded(theirs, *batch), trained)


def test_square_in_l2_is_torchattacks_own(trained: nn.Module) -> None:
    images, labels = labelled_images(6, seed=1000, side=28)
    theirs = torchattacks.Square(trained, norm="L2", eps=6.0, n_queries=60, seed=5)
    ours = build_attack("square", {"eps": 6.0, "norm": "l2", "n_queries": 60})
    found = ours.run(trained, images, labels, seed=5)
    check_equal(found, seeded(theirs, images, labels), trained)
    assert accuracy(trained, found, labels) < 1


def test_cw_is_torchattacks_own_where_that_neither_stops_early_nor_masks_with_zero(trained: nn.Module) -> None:
    class Positive(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return trained(images) + 100

    images, labels = labelled_images(24, seed=1000)
    parameters: dict[str, Any] = {"c": 2.0, "steps": 40, "lr": 0.01}
    theirs = torchattacks.CW(Positive(), **parameters)
    theirs.device = images.device
    ours = build_attack("cw", {"eps": 5.0, **parameters})
    # alone, because they look at the sum of the costs of a batch to stop
    kept = 0
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        expected = theirs(image, label)
        if torch.equal(expected, image):
            continue  # stopped before it found anything
        kept += 1
        found = ours.run(Positive(), image, label, seed=0)
        length = (found - image).norm()
        assert float(length) <= float((expected - image).norm()) * 1.001
        assert float((found - expected).abs().max()) <= 1e-3 or float(length) < float((expected - image).norm())
    assert kept >= 12


class _FiveClasses(nn.Module):
    """A victim whose targeted losses have all the logits that they are scaled by: two classes lie between others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        return torch.cat([logits, (logits + logits.roll(1, dims=1))[:, :2] / 2], dim=1)


def test_targeted_apgd_is_torchattacks_own(trained: nn.Module) -> None:
    images, labels = labelled_images(12, seed=1000)
    model = _FiveClasses(trained).eval()
    found = []
    for eps in (4 / 255, 5 / 255, 7 / 255):
        theirs = torchattacks.APGDT(model, eps=eps, steps=20, seed=5, n_classes=5)
        ours = _TargetedApgd(model, eps=eps, steps=20, seed=5, n_restarts=4, loss="dlr")
        expected, adversarial = seeded(theirs, images, labels), seeded(ours, images, labels)
        assert torch.allclose(adversarial, expected, atol=1e-6), eps
        found.append(accuracy(model, adversarial, labels))
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(
    ("norm", "name", "radii"),
    [("linf", "Linf", (4 / 255, 5 / 255)), ("l2", "L2", (0.8, 1.1))],
)
def test_autoattack_is_no_weaker_than_torchattacks_own(
    norm: str, name: str, radii: tuple[float, ...], trained: nn.Module
) -> None:
    images, labels = labelled_images(12, seed=1000, side=28 if norm == "l2" else 12)
    model = _FiveClasses(trained).eval()
    found = []
    for eps in radii:
        theirs = torchattacks.AutoAttack(model, norm=name, eps=eps, seed=5, n_classes=5)
        theirs._autoattack.attacks[-1].n_queries = 20
        expected = accuracy(model, seeded(theirs, images, labels), labels)
        ours = build_attack("autoattack", {"eps": eps, "norm": norm, "n_queries": 20, "steps": 20})
        found.append(accuracy(model, ours.run(model, images, labels, seed=5), labels))
        assert found[-1] <= expected, eps
    assert found[0] > found[-1]
