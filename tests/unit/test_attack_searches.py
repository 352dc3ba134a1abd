"""What single attacks promise beyond the contract of all: starts, restarts, targets, smallest changes, few classes."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from limla.attacks.base import build_attack
from limla.errors import SettingsError
from limla.plans import parse_attack
from tests.contracts.victims import accuracy, batch, labelled_images, trained

__all__ = ["batch", "trained"]  # fixtures


def run(text: str, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    plan = parse_attack(text)
    return build_attack(plan.name, dict(plan.parameters)).run(model, images, labels, seed)


class FewClasses(nn.Module):
    """The first classes of a model."""

    def __init__(self, inner: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.inner, self.num_classes = inner, num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)[:, : self.num_classes]


class Sure(nn.Module):
    """So sure of its answer that the gradient of its loss is zero."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([1e4 + 0 * images.sum((1, 2, 3)), 0 * images.sum((1, 2, 3))], dim=1)


def test_the_start_in_l2_is_uniform_in_the_ball() -> None:
    attack = build_attack("pgd", {"eps": 0.4, "norm": "l2"})
    images = torch.full((20_000, 3, 1, 1), 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        offsets = (attack._start(images)[:, 0] - images).flatten(1)
    # in three dimensions the cube of the radius is uniform, and so is each coordinate of the direction
    radius = offsets.norm(dim=1)
    assert scipy.stats.kstest((radius / 0.4).pow(3).numpy(), "uniform").pvalue > 0.01
    for axis in (offsets / radius[:, None]).T:
        assert scipy.stats.kstest((axis.numpy() + 1) / 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize("text", ["pgd:eps=5/255", "pgd:eps=0.4,norm=l2", "pgd:eps=6/255,target=next"])
def test_restarts_never_make_an_image_safer(text: str, trained: nn.Module) -> None:
    images, labels = labelled_images(48, seed=3)
    goals = (labels + 1) % 3 if "next" in text else labels

    @torch.no_grad()
    def judged(restarts: int) -> tuple[Tensor, Tensor]:
        logits = trained(run(f"{text},steps=2,restarts={restarts}", trained, images, labels))
        loss = nn.functional.cross_entropy(logits, goals, reduction="none")
        hits = logits.argmax(1) == goals
        return (hits, -loss) if "next" in text else (~hits, loss)

    fooled, gain = judged(1)
    for restarts in (2, 4):
        more_fooled, more_gain = judged(restarts)
        assert bool((more_fooled >= fooled).all())
        same = more_fooled == fooled
        assert bool((more_gain >= gain - 1e-5)[same].all())
        assert float(more_gain.sum()) > float(gain.sum())
        fooled, gain = more_fooled, more_gain
    assert 0 < int(fooled.sum()) < 48


def test_targets_are_other_classes_from_the_seed() -> None:
    labels = torch.arange(3000) % 5
    assert build_attack("pgd", {"eps": 0.1}).targets(labels, 5, seed=0) is None
    following = build_attack("pgd", {"eps": 0.1, "target": "next"}).targets(labels, 5, seed=0)
    assert following is not None
    assert torch.equal(following, (labels + 1) % 5)
    attack = build_attack("pgd", {"eps": 0.1, "target": "random"})
    drawn = attack.targets(labels, 5, seed=1)
    assert drawn is not None
    assert drawn.dtype == torch.int64
    assert not bool((drawn == labels).any())
    counts = torch.bincount((drawn - labels) % 5, minlength=5)[1:]
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01
    again, other = attack.targets(labels, 5, seed=1), attack.targets(labels, 5, seed=2)
    assert again is not None
    assert other is not None
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    with pytest.raises(SettingsError, match="aims at another class, and the model knows 1"):
        attack.targets(labels * 0, 1, seed=0)


@pytest.mark.parametrize("target", ["next", "random"])
@pytest.mark.parametrize("norm", ["eps=16/255", "eps=1.2,norm=l2"])
def test_a_targeted_attack_reaches_its_targets(
    target: str, norm: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    plan = parse_attack(f"pgd:{norm},target={target}")
    attack = build_attack(plan.name, dict(plan.parameters))
    adversarial = attack.run(trained, *batch, seed=4)
    targets = attack.targets(batch[1], 3, seed=4)
    assert targets is not None
    assert torch.equal(trained(adversarial).argmax(1), targets)


@pytest.mark.parametrize(
    "text", ["fgsm:eps=8/255", "mifgsm:eps=8/255", "pgd:eps=8/255", "pgd:eps=1.0,norm=l2", "cw:eps=1.0"]
)
def test_a_gradient_of_zero_is_no_error(text: str) -> None:
    images = torch.rand(3, 3, 8, 8)
    adversarial = run(text, Sure(), images, torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(adversarial).all()


def test_gaussian_noise_is_as_strong_as_it_says() -> None:
    images, labels = torch.full((4, 3, 50, 50), 0.5), torch.zeros(4, dtype=torch.int64)
    clipped = run("gaussian-noise:eps=0.1", Sure(), images, labels) - images
    assert float(clipped.square().mean().sqrt()) == pytest.approx(0.072, abs=0.001)
    assert float((clipped.abs() >= 0.1 - 1e-6).float().mean()) == pytest.approx(0.317, abs=0.01)
    uniform = run("uniform-noise:eps=0.1", Sure(), images, labels) - images
    assert float(uniform.square().mean().sqrt()) == pytest.approx(0.1 / 3**0.5, abs=0.001)
    length = (run("gaussian-noise:eps=2.0,norm=l2", Sure(), images, labels) - images).flatten(1).norm(dim=1)
    assert torch.allclose(length, torch.full((4,), 2.0), atol=1e-4)


def test_cw_changes_less_with_more_searches_and_more_with_confidence(
    trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch

    def lengths(parameters: str) -> Tensor:
        found = run(f"cw:eps=9.0,{parameters}", trained, images, labels)
        assert accuracy(trained, found, labels) == 0
        return (found - images).flatten(1).norm(dim=1)

    once, searched = lengths("c=10"), lengths("c=10,searches=6")
    assert bool((searched <= once + 1e-6).all())
    assert float(searched.mean()) < 0.95 * float(once.mean())
    found = run("cw:eps=9.0,c=10,kappa=2", trained, images, labels)
    logits = trained(found)
    right = logits.gather(1, labels[:, None])[:, 0]
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert bool((wrong - right >= 2).all())
    assert float(lengths("c=10,kappa=2").mean()) > float(once.mean())


def test_cw_succeeds_where_its_smallest_change_lies_in_the_ball(
    trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    free = run("cw:eps=9.0", trained, images, labels)
    length = (free - images).flatten(1).norm(dim=1)
    eps = float(length.median())
    bounded = run(f"cw:eps={eps}", trained, images, labels)
    within = length <= eps
    assert torch.equal(bounded[within], free[within])
    fooled = trained(bounded).argmax(1) != labels
    assert bool(fooled[within].all())
    assert int(fooled.sum()) < len(labels)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_autoattack_takes_models_of_few_classes(num_classes: int, trained: nn.Module) -> None:
    images, labels = labelled_images(24, seed=1000)
    images, labels = images[labels < num_classes], labels[labels < num_classes]
    model = FewClasses(trained, num_classes).eval()
    assert accuracy(model, images, labels) >= 0.9
    text = "autoattack:eps=8/255,steps=20,n_queries=50"
    adversarial = run(text, model, images, labels)
    assert accuracy(model, adversarial, labels) == 0
    by_pgd = [accuracy(model, run(f"pgd:eps={eps}/255", model, images, labels), labels) for eps in (4, 5)]
    by_all = [
        accuracy(model, run(f"autoattack:eps={eps}/255,steps=20,n_queries=50", model, images, labels), labels)
        for eps in (4, 5)
    ]
    assert by_all <= by_pgd


@pytest.mark.parametrize("name", ["square", "autoattack"])
@pytest.mark.parametrize("shape", [(2, 3, 24, 24), (2, 3, 32, 40)])
def test_squares_in_l2_need_square_images(name: str, shape: tuple[int, ...], trained: nn.Module) -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(SettingsError, match=r"norm l2 needs square images of at least 25 x 25 .* norm linf"):
        run(f"{name}:eps=1.0,norm=l2", trained, torch.rand(shape), labels)
    linf = run(f"{name}:eps=8/255,n_queries=5", trained, torch.rand(shape), labels)
    assert linf.shape == shape


@pytest.mark.parametrize("side", [25, 26, 28, 29, 33])
@pytest.mark.parametrize("p_init", [0.05, 0.8])
def test_squares_in_l2_fit_images_of_any_side_from_25(side: int, p_init: float, trained: nn.Module) -> None:
    images, labels = labelled_images(3, seed=0, side=side)
    adversarial = run(f"square:eps=0.5,norm=l2,n_queries=25,p_init={p_init}", trained, images, labels)
    assert torch.isfinite(adversarial).all()


def test_more_than_ten_classes_cost_no_more_targets() -> None:
    class Hundred(nn.Module):
        passes = 0

        def forward(self, images: Tensor) -> Tensor:
            Hundred.passes += len(images)
            means = images.mean(dim=(1, 2, 3))
            return torch.cat([means[:, None] + 50, 0.01 * means[:, None] * torch.arange(99)], dim=1)

    attack = build_attack("autoattack", {"eps": 1 / 255, "steps": 2, "n_queries": 3})
    attack.run(Hundred(), torch.rand(2, 3, 9, 9), torch.zeros(2, dtype=torch.int64), seed=0)
    assert Hundred.passes == 2 * attack.num_gradients + 1
