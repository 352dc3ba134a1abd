"""What every attack of the catalogue must hold to: how it treats the model, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limla.errors import DataError, SettingsError
from limla.models import parts
from limla.models.victim import Victim
from tests.contracts.victims import (
    ATTACKING,
    NAMES,
    NOISE,
    SPLITTING,
    WHITE_BOX,
    SmallNet,
    accuracy,
    batch,
    make,
    trained,
)

__all__ = ["batch", "trained"]  # fixtures


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


@pytest.mark.parametrize("name", ATTACKING)
def test_attack_sees_eval_mode_and_frozen_parameters(name: str, batch: tuple[Tensor, Tensor]) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.dropout.training, self.conv.weight.requires_grad))
            return super().forward(images)

    make(name).run(Watching().train(), *batch, seed=0)
    assert seen
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize("name", ATTACKING)
def test_model_is_restored_when_the_attack_fails(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class Failing(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("boom")

    model = Failing().train()
    with pytest.raises(RuntimeError, match="boom"):
        make(name).run(model, *batch, seed=0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ATTACKING)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(
    name: str, poison: float, batch: tuple[Tensor, Tensor]
) -> None:
    model = SmallNet().eval()
    with torch.no_grad():
        model.head.bias[1] = poison
    with pytest.raises(DataError, match="logits are NaN or infinite"):
        make(name).run(model, *batch, seed=0)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_gradients_that_are_not_finite_are_an_error(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class RootOfZero(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            # finite, but its derivative is infinity times zero
            return super().forward(images) + torch.sqrt(images * 0).sum(dim=(1, 2, 3)).unsqueeze(1)

    with pytest.raises(DataError, match="gradients are NaN or infinite"):
        make(name).run(RootOfZero().eval(), *batch, seed=0)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_models_that_cannot_be_attacked_are_named(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class Detached(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.round().detach())

    class Dictionary(SmallNet):
        def forward(self, images: Tensor) -> Any:
            return {"logits": super().forward(images)}

    with pytest.raises(SettingsError, match="does not depend differentiably"):
        make(name).run(Detached().eval(), *batch, seed=0)


@pytest.mark.parametrize("name", ATTACKING)
def test_models_of_other_outputs_are_named(name: str, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch

    class Dictionary(SmallNet):
        def forward(self, images: Tensor) -> Any:
            return {"logits": super().forward(images)}

    class OneClass(SmallNet):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images)[:, :1]

    with pytest.raises(SettingsError, match=r"dict for (24|1) images"):
        make(name).run(Dictionary().eval(), images, labels, seed=0)
    with pytest.raises(DataError, match="do not fit a model of 3 classes"):
        make(name).run(SmallNet().eval(), images, labels + 2, seed=0)
    with pytest.raises(SettingsError, match="one class has no wrong answer"):
        make(name).run(OneClass().eval(), images, labels * 0, seed=0)


def test_a_black_box_attack_needs_no_gradient(trained: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    class Rounding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return trained((images * 255).round() / 255).detach()

    adversarial = make("square", 16 / 255).run(Rounding(), *batch, seed=0)
    assert accuracy(trained, adversarial, batch[1]) < 0.5


@pytest.mark.parametrize("name", NOISE)
def test_noise_never_asks_the_model(name: str, batch: tuple[Tensor, Tensor]) -> None:
    class Unused(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("asked")

    make(name).run(Unused(), *batch, seed=0)


@pytest.mark.parametrize("name", ATTACKING)
def test_an_image_costs_the_passes_that_are_told(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    num_images = 0

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal num_images
            num_images += len(images)
            return trained(images)

    attack = make(name, 1 / 255)  # which every image withstands
    attack.run(Counting(), *batch, seed=0)
    # besides, the number of classes is asked of one image
    asked = attack.target != "" or name == "autoattack"
    told = attack.num_gradients * len(batch[1]) + asked
    # 2 of 9 targets, in a model of three classes
    assert num_images <= told
    assert num_images == told or name == "autoattack"


@pytest.mark.parametrize("name", ATTACKING)
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


@pytest.mark.parametrize("name", ATTACKING)
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


@pytest.mark.parametrize("name", SPLITTING)
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


@pytest.mark.parametrize("name", SPLITTING)
def test_a_parts_error_is_the_attacks_error(
    name: str, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", batch[0][0].numel() * 4)
    model = SmallNet().eval()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    with pytest.raises(DataError, match="logits are NaN or infinite"):
        make(name).run(Victim(model, 0, False, (), splits=True), *batch, seed=0)


@pytest.mark.parametrize("name", [name for name in ATTACKING if name not in SPLITTING])
def test_attacks_of_whole_batches_run_on_victims_that_split(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = make(name, 5 / 255)
    whole = attack.run(trained, *batch, seed=5)
    monkeypatch.setattr(parts, "PART_BYTES", 5 * batch[0][0].numel() * 4)
    victim = Victim(trained, 0, False, (), splits=True)
    found = attack.run(victim, *batch, seed=5)
    assert torch.equal(found, attack.run(victim, *batch, seed=5))
    assert torch.equal(trained(found).argmax(1), trained(whole).argmax(1))
    assert 0 < accuracy(trained, found, batch[1]) < 1


@pytest.mark.parametrize("name", [name for name in SPLITTING if not make(name).uses_seed])
def test_an_image_alone_meets_the_same_attack(
    name: str, trained: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    attack = make(name, 5 / 255)
    together = attack.run(trained, images, labels, seed=0)
    alone = torch.cat([attack.run(trained, images[i : i + 1], labels[i : i + 1], seed=0) for i in range(8)])
    assert float(((alone - together[:8]).abs() <= 1e-4).float().mean()) >= 0.99
