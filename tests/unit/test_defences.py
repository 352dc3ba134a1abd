"""Compression as a defence: its draws, and what each attacker differentiates."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from limla.attacks.base import build_attack
from limla.codecs.jpeg import JpegCodec
from limla.defences import CodecDefence, attackers_view
from limla.defences.jpeg import differentiable_jpeg
from limla.errors import SettingsError
from limla.models import parts
from limla.models.victim import Victim, prepare_victim
from limla.plans import DefencePlan, parse_defences
from limla.registry import CODECS, DIFFERENTIABLE
from tests.contracts.test_defences import photos
from tests.variants import member, write_variant


class Net(nn.Module):
    """Convolution, batch norm, mean and linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(images - 0.5)))
        return self.head((features * features).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
    return net.eval().requires_grad_(False)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are cut into parts of two photos of 24 × 24."""
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 3 * 24 * 24 * 4)


def jpeg(*qualities: int) -> CodecDefence:
    return CodecDefence(DefencePlan("jpeg", qualities))


def gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Of the cross-entropy against class 1."""
    probe = images.clone().requires_grad_(True)
    labels = torch.ones(len(images), dtype=torch.int64)
    loss = nn.functional.cross_entropy(model(probe), labels, reduction="sum")
    return torch.autograd.grad(loss, probe)[0]


def through(images: Tensor, quality: int) -> Tensor:
    """Each image through the codec, by hand."""
    codec = JpegCodec()
    rows = (images.permute(0, 2, 3, 1) * 255).round().byte().contiguous().numpy()
    decoded = np.stack([codec.decode(codec.encode(image, quality)) for image in rows])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255


def test_bpda_is_the_victims_gradient_at_the_decoded_image(net: nn.Module) -> None:
    images = photos(5, 24, 24)
    view = attackers_view(net, jpeg(20), "bpda")
    decoded = through(images, 20)
    assert torch.allclose(view(images), net(decoded))
    found = gradient(view, images)
    assert torch.allclose(found, gradient(net, decoded))
    assert not torch.allclose(found, gradient(net, images), rtol=0.1), "else the codec was not on the way"


def test_eot_bpda_is_the_mean_of_the_logits_over_the_qualities(net: nn.Module) -> None:
    images = photos(4, 24, 24)
    view = attackers_view(net, jpeg(10, 40, 90), "eot-bpda")
    shifts = [(through(images, quality) - images).detach() for quality in (10, 40, 90)]

    def expected(probe: Tensor) -> Tensor:
        return torch.stack([net(probe + shift) for shift in shifts]).mean(0)

    assert torch.allclose(view(images), expected(images), atol=1e-6)
    assert torch.allclose(gradient(view, images), gradient(expected, images), atol=1e-7)


def test_differentiable_gradients_are_those_of_finite_differences(net: nn.Module) -> None:
    images = photos(2, 21, 18).double()
    double = Net().double().eval().requires_grad_(False)
    double.load_state_dict({name: value.double() for name, value in net.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    cases = (((30,), "differentiable"), ((80,), "differentiable"), ((15, 60), "eot-differentiable"))
    for qualities, threat in cases:
        view = attackers_view(double, jpeg(*qualities), threat)
        along = gradient(view, images)
        assert along.flatten(1).any(1).all()
        for _ in range(3):
            way = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            # a step too small to meet one of the jumps that rounding leaves
            steps = [images + sign * 1e-7 * way for sign in (1, -1)]
            losses = [
                nn.functional.cross_entropy(view(step), torch.ones(2, dtype=torch.int64), reduction="sum")
                for step in steps
            ]
            slope = float(losses[0] - losses[1]) / 2e-7
            assert slope == pytest.approx(float((along * way).sum()), rel=1e-3, abs=1e-7)


def test_eot_differentiable_is_the_mean_of_the_logits(net: nn.Module) -> None:
    images = photos(3, 24, 24)
    view = attackers_view(net, jpeg(10, 70), "eot-differentiable")
    expected = (net(differentiable_jpeg(images, 10)) + net(differentiable_jpeg(images, 70))) / 2
    assert torch.allclose(view(images), expected, atol=1e-6)


def test_differentiable_jpeg_halves_chroma_as_the_codec_does() -> None:
    """4:2:0: a checkerboard of two colours of one luma becomes one colour; one of two lumas stays."""
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2).float()
    colours = torch.tensor([[0.8, 0.35, 0.3], [0.3, 0.605, 0.3]])  # luma 0.479 both
    coloured = (board[..., None] * colours[0] + (1 - board[..., None]) * colours[1]).permute(2, 0, 1)[None]
    grey = (0.3 + 0.4 * board).expand(1, 3, 32, 32)
    for images, is_flat in ((coloured, True), (grey, False)):
        for made in (differentiable_jpeg(images, 95), through(images, 95)):
            spread = float(made[0, :, 8:24, 8:24].flatten(1).std(1).max())
            assert (spread < 0.02) == is_flat, spread
            assert is_flat or spread > 0.15


def test_the_attacker_who_does_not_know_attacks_the_victim_itself(net: nn.Module) -> None:
    assert attackers_view(net, jpeg(10), "static") is net
    assert attackers_view(net, None, "") is net


def test_a_random_defence_draws_by_the_seed_alone() -> None:
    defence, plan = jpeg(10, 50, 90), DefencePlan("jpeg", (10, 50, 90))
    images = photos(40, 24, 24)
    drawn = defence.draw(40, seed=7)
    assert drawn == CodecDefence(plan).draw(40, seed=7)
    assert drawn != defence.draw(40, seed=8)
    assert drawn[:5] == defence.draw(5, seed=7)
    counts = [defence.draw(3000, seed=1).count(quality) for quality in (10, 50, 90)]
    assert all(abs(count - 1000) < 100 for count in counts), counts
    before, after = defence.apply(images, 7), defence.apply((images + 0.02).clamp(0, 1), 7)
    for found in (before, after):
        assert len({round(np.log2(number)) for number in found.num_bytes}) > 1
    expected = torch.cat([through(images[i : i + 1], quality) for i, quality in enumerate(drawn)])
    assert torch.equal(before.images, expected)
    expected = torch.cat(
        [through((images + 0.02).clamp(0, 1)[i : i + 1], quality) for i, quality in enumerate(drawn)]
    )
    assert torch.equal(after.images, expected), "the same draw after an attack"


@pytest.mark.parametrize("threat", ["bpda", "differentiable", "eot-bpda", "eot-differentiable"])
def test_views_are_cut_into_parts_and_threads_change_nothing(
    net: nn.Module, small_parts: None, threat: str
) -> None:
    images, labels = photos(7, 24, 24), torch.arange(7) % 4
    victim = prepare_victim(net, "cpu", images[:2])
    assert victim.splits
    assert victim.fused_layers == 1
    qualities = (20, 60) if threat.startswith("eot") else (20,)
    seen: list[int] = []
    model = victim.model
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    attack = build_attack("pgd", {"eps": 4 / 255, "steps": 3})
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            found.append(attack.run(attackers_view(victim, jpeg(*qualities), threat), images, labels, seed=1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert set(seen) == {1, 2}, "never the whole batch"
    assert not torch.equal(found[0], attack.run(victim, images, labels, seed=1))


def test_codecs_of_parts_work_in_the_parts_own_threads(
    net: nn.Module, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: set[str] = set()
    encode = JpegCodec.encode

    def listen(self: JpegCodec, image: Any, quality: int) -> bytes:
        names.add(threading.current_thread().name.split("_")[0])
        return encode(self, image, quality)

    monkeypatch.setattr(JpegCodec, "encode", listen)
    images, labels = photos(8, 24, 24), torch.arange(8) % 4
    victim = prepare_victim(net, "cpu", images[:2])
    attack = build_attack("fgsm", {"eps": 4 / 255})
    defence = CodecDefence(DefencePlan("jpeg", (20,)), num_threads=2)
    attack.run(attackers_view(victim, defence, "bpda"), images, labels, seed=0)
    assert names == {"limla-part"}
    names.clear()
    attack.run(attackers_view(net, defence, "bpda"), images, labels, seed=0)
    assert names == {"limla-codec"}, "a whole batch is encoded by all threads"


def test_a_model_whose_images_mix_is_attacked_whole(small_parts: None) -> None:
    class Mixing(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + images.mean() * 3

    torch.manual_seed(0)
    images, labels = photos(6, 24, 24), torch.arange(6) % 4
    victim = prepare_victim(Mixing(), "cpu", images[:2])
    assert isinstance(victim, Victim)
    assert not victim.splits
    attacked = build_attack("fgsm", {"eps": 4 / 255}).run(
        attackers_view(victim, jpeg(20), "bpda"), images, labels, seed=0
    )
    assert float((attacked - images).abs().max()) > 3 / 255


def test_one_image_alone_is_attacked_as_within_a_batch(net: nn.Module) -> None:
    images, labels = photos(3, 24, 24), torch.arange(3)
    attack = build_attack("fgsm", {"eps": 4 / 255})
    for threat in ("bpda", "differentiable"):
        view = attackers_view(net, jpeg(30), threat)
        together = attack.run(view, images, labels, seed=0)
        alone = attack.run(view, images[1:2], labels[1:2], seed=0)
        # a sign of a gradient near zero may turn with rounding
        assert float((together[1:2] == alone).float().mean()) > 0.99


def test_a_codec_without_a_differentiable_model_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS.plugs, "squeeze", "limla.codecs.jpeg:JpegCodec")
    assert "squeeze" not in DIFFERENTIABLE.names()
    DefencePlan("squeeze", (50,), ("static", "bpda"))
    for threat, qualities, instead in (
        ("differentiable", (50,), "bpda"),
        ("eot-differentiable", (10, 50), "eot-bpda"),
    ):
        with pytest.raises(SettingsError, match=rf"codec 'squeeze', .*only of jpeg.*: choose {instead}$"):
            DefencePlan("squeeze", qualities, ("static", threat))
    with pytest.raises(SettingsError, match="choose bpda"):
        parse_defences("squeeze:10,50", ("static", "differentiable"))


def test_the_page_says_what_the_benchmark_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script on a few small images; and the committed page is made from the committed numbers."""
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import differentiable  # type: ignore[import-not-found]

    write_variant(tmp_path / "things" / "source", {"test": [[member(number, 40, 50) for number in range(3)]]})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{differentiable.MARK}\nold\n{differentiable.MARK}\nafter\n")
    words = ["--data-dir", tmp_path / "things", "--quality", 10, "--quality", 90, "--image-size", 32]
    words += ["--output", tmp_path / "found.json", "--page", page]
    done = CliRunner().invoke(differentiable.main, list(map(str, words)))
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "found.json").read_text())["models"]
    assert [row["quality"] for row in found["qualities"]] == [10, 90]
    assert all(row["min_model_psnr_db"] <= row["model_psnr_db"] for row in found["qualities"])
    assert all(row["image_psnr_db"] < row["model_psnr_db"] for row in found["qualities"])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert f"| differentiable model | {found['qualities'][0]['model_psnr_db']:.1f} |" in text
    committed = json.loads((root / "benchmarks" / "results" / "differentiable.json").read_text())
    assert differentiable.markdown(committed) in (root / "docs" / "attacks.md").read_text(encoding="utf-8")
