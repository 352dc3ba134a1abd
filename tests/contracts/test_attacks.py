"""What every attack of the catalogue must hold to."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from limla.attacks.base import Attack, attack_parameters, build_attack, project
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.models import parts
from limla.models.victim import Victim
from limla.registry import ATTACKS

EPS = 8 / 255
NAMES = ATTACKS.names()
REAL = [name for name in NAMES if name != "none"]


def make(name: str, eps: float = EPS) -> Attack:
    return build_attack(name, eps) if "eps" in attack_parameters(name) else build_attack(name)


class SmallNet(nn.Module):
    """Every layer kind whose mode or state an attack could spoil."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images))).mean(dim=(2, 3))
        return self.head(self.dropout(features))


def labelled_images(num_images: int, seed: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noise whose class is the brightest colour channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % 3
    images = 0.35 + 0.3 * torch.rand(num_images, 3, side, side, generator=generator)
    images[torch.arange(num_images), labels] += 0.05
    return images.clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small model that is right on nearly every one of `labelled_images`, in eval mode. Read only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallNet()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(80):
            images, labels = labelled_images(48, seed=step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return labelled_images(24, seed=1000)


@pytest.mark.parametrize("name", NAMES)
def test_catalogue_entry_keeps_its_word(name: str) -> None:
    attack = make(name)
    assert attack.name == name
    assert attack.norm in ("", "linf", "l2")
    assert (attack.norm == "") == (name == "none")
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


class CountingNet(SmallNet):
    """A model that changes its own buffers in every forward, one in place and one by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("assigned", torch.zeros(2))

    def forward(self, images: Tensor) -> Tensor:
        self.in_place += 1
        self.assigned = self.assigned + 1
        return super().forward(images)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_exactly_as_it_was(name: str, batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = CountingNet()
    model.train()
    model.norm.eval()  # a frozen batch norm in a training model
    model.head.bias.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    modes = {key: module.training for key, module in model.named_modules()}
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    tensors = {key: id(tensor) for key, tensor in (*model.named_parameters(), *model.named_buffers())}
    state = copy.deepcopy(model.state_dict())

    make(name).run(model, *batch, seed=0)

    assert {key: module.training for key, module in model.named_modules()} == modes
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == flags
    assert {k: id(t) for k, t in (*model.named_parameters(), *model.named_buffers())} == tensors
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.conv.bias.grad is None


@pytest.mark.parametrize("name", REAL)
def test_attack_sees_eval_mode_and_frozen_parameters(name: str, batch: tuple[Tensor, Tensor]) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.dropout.training, self.conv.weight.requires_grad))
            return super().forward(images)

    make(name).run(Watching().train(), *batch, seed=0)
    assert seen
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize("name", REAL)
def test_model_is_restored_when_the_attack_fails(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class Failing(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("boom")

    model = Failing().train()
    with pytest.raises(RuntimeError, match="boom"):
        make(name).run(model, *batch, seed=0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


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


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(
    name: str, poison: float, batch: tuple[Tensor, Tensor]
) -> None:
    model = SmallNet().eval()
    with torch.no_grad():
        model.head.bias[1] = poison
    with pytest.raises(DataError, match="logits are NaN or infinite"):
        make(name).run(model, *batch, seed=0)


@pytest.mark.parametrize("name", REAL)
def test_gradients_that_are_not_finite_are_an_error(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class RootOfZero(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            # finite, but its derivative is infinity times zero
            return super().forward(images) + torch.sqrt(images * 0).sum(dim=(1, 2, 3)).unsqueeze(1)

    with pytest.raises(DataError, match="gradients are NaN or infinite"):
        make(name).run(RootOfZero().eval(), *batch, seed=0)


@pytest.mark.parametrize("name", REAL)
def test_models_that_cannot_be_attacked_are_named(name: str, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch

    class Detached(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.round().detach())

    class Dictionary(SmallNet):
        def forward(self, images: Tensor) -> Any:
            return {"logits": super().forward(images)}

    with pytest.raises(SettingsError, match="does not depend differentiably"):
        make(name).run(Detached().eval(), images, labels, seed=0)
    with pytest.raises(SettingsError, match="dict for 24 images"):
        make(name).run(Dictionary().eval(), images, labels, seed=0)
    with pytest.raises(DataError, match="do not fit a model of 3 classes"):
        make(name).run(SmallNet().eval(), images, labels + 2, seed=0)


@pytest.mark.parametrize("name", REAL)
def test_a_model_without_parameters_prints_nothing(
    name: str, batch: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    class ChannelMeans(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 50 * images.mean(dim=(2, 3))

    images, labels = batch
    adversarial = make(name, 16 / 255).run(ChannelMeans(), images, labels, seed=0)
    assert float((ChannelMeans()(adversarial).argmax(1) == labels).float().mean()) < 0.5
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", REAL)
def test_a_models_own_mean_and_std_are_not_taken_for_a_normalisation(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    class RobModel(nn.Module):
        """torchattacks would normalise for a class of this name."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = trained
            self.mean = torch.full((3,), 0.5)
            self.std = torch.full((3,), 0.1)

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)

    expected = make(name).run(trained, *batch, seed=0)
    assert torch.equal(make(name).run(RobModel().eval(), *batch, seed=0), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images, labels: (images.double(), labels), "float32"),
        (lambda images, labels: (images[0], labels), r"\(N, C, H, W\)"),
        (lambda images, labels: (images * 255, labels), r"in \[0, 1\]"),
        (lambda images, labels: (images - 0.9, labels), r"in \[0, 1\]"),
        (lambda images, labels: (images * float("nan"), labels), r"in \[0, 1\]"),
        (lambda images, labels: (images, labels[:-1]), "int64"),
        (lambda images, labels: (images, labels.int()), "int64"),
    ],
)
def test_a_batch_that_is_none_is_refused(
    name: str, spoil: Any, message: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name).run(trained, *spoil(*batch), seed=0)


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
    with pytest.raises(error, match=message):
        build_attack(**arguments)


def test_pgd_takes_its_steps_and_step_length(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    calls = 0

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return trained(images)

    attack = build_attack("pgd", EPS, steps=7, alpha=1 / 255)
    assert attack.settings() == {"alpha": 1 / 255, "random_start": True, "steps": 7}
    attack.run(Counting(), *batch, seed=0)
    assert calls == 7
    assert build_attack("pgd", EPS).settings() == {"alpha": 2 / 255, "random_start": True, "steps": 10}


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


@pytest.mark.parametrize("name", REAL)
def test_parts_and_threads_do_not_change_the_result(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(name).run(trained, *batch, seed=5)
    before = torch.get_num_threads()
    found: dict[tuple[int, int], Tensor] = {}
    try:
        for images_per_part in (1, 5, 24):
            monkeypatch.setattr(parts, "PART_BYTES", images_per_part * batch[0][0].numel() * 4)
            for num_threads in (1, 2):
                torch.set_num_threads(num_threads)
                victim = Victim(trained, 0, False, (), splits=True)
                found[images_per_part, num_threads] = make(name).run(victim, *batch, seed=5)
                assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    for (images_per_part, num_threads), adversarial in found.items():
        key = (images_per_part, num_threads)
        assert float(((adversarial - whole).abs() <= 1e-5).float().mean()) >= 0.99, key
        assert torch.equal(trained(adversarial).argmax(1), trained(whole).argmax(1)), key
        if images_per_part < 24:
            assert torch.equal(adversarial, found[images_per_part, 1]), key


@pytest.mark.parametrize("name", REAL)
def test_a_parts_error_is_the_attacks_error(
    name: str, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", batch[0][0].numel() * 4)
    model = SmallNet().eval()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    with pytest.raises(DataError, match="logits are NaN or infinite"):
        make(name).run(Victim(model, 0, False, (), splits=True), *batch, seed=0)


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
