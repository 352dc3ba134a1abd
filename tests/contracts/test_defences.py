"""What every codec of the catalogue must do as a defence, and every differentiable model of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limla.attacks.base import build_attack
from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.defences import CodecDefence, attackers_view
from limla.metrics import psnr_db
from limla.plans import THREATS, DefencePlan, fitting_threats
from limla.registry import CODECS, DIFFERENTIABLE
from limla.types import Image
from tests.catalogue import catalogue_codec, codec_text
from tests.conftest import natural_like

SIDES = ((1, 1), (7, 30), (24, 24), (33, 18))


def photos(number: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(N, 3, H, W) float32 in [0, 1]: neither of 8 bits nor without them, one gray, one black and white."""
    images = np.stack([natural_like(height, width, seed + index) for index in range(number)])
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, images.shape)
    values = torch.from_numpy((images / 255 + noise).clip(0, 1)).float().permute(0, 3, 1, 2).contiguous()
    values[-1] = values[-1].mean(0)
    values[0] = values[0].round()
    return values


def pixels_of(images: Tensor) -> list[Image]:
    """Each as an (H, W, 3) uint8 image."""
    return [(image * 255).round().byte().permute(1, 2, 0).contiguous().numpy() for image in images]


def middle_quality(codec: Codec) -> int:
    return (codec.scale.lowest + codec.scale.highest) // 2


@pytest.fixture(params=CODECS.names())
def codec(request: pytest.FixtureRequest) -> Codec:
    return catalogue_codec(request.param)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("number", [1, 5])
def test_a_defence_is_the_codec_image_by_image(codec: Codec, sides: tuple[int, int], number: int) -> None:
    quality = middle_quality(codec)
    images = photos(number, *sides)
    before = images.clone()
    defended = CodecDefence(DefencePlan(codec_text(codec.name), (quality,)), num_threads=2).apply(
        images, seed=0
    )
    streams = [codec.encode(image, quality) for image in pixels_of(images)]
    assert defended.num_bytes == tuple(map(len, streams))
    assert defended.images.shape == images.shape
    assert defended.images.dtype == torch.float32
    assert defended.images.device == images.device
    assert float(defended.images.min()) >= 0
    assert float(defended.images.max()) <= 1
    for image, stream in zip(pixels_of(defended.images), streams, strict=True):
        assert np.array_equal(image, codec.decode(stream))
    assert torch.equal(defended.images, (defended.images * 255).round() / 255), "8-bit levels, exactly"
    assert torch.equal(images, before)


def test_threads_change_nothing(codec: Codec) -> None:
    """Equal images and bytes for any number of threads, and when several callers share one defence."""
    qualities = tuple(sorted({codec.scale.lowest, middle_quality(codec), codec.scale.highest}))
    plan = DefencePlan(codec_text(codec.name), qualities)
    batches = [photos(9, 20, 28, seed=10 * number) for number in range(4)]
    alone = [CodecDefence(plan, num_threads=1).apply(images, seed) for seed, images in enumerate(batches)]
    shared = CodecDefence(plan, num_threads=3)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(shared.apply, batches, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.num_bytes == other.num_bytes


def test_its_record_is_the_codecs(codec: Codec) -> None:
    plan = DefencePlan(codec_text(codec.name), (middle_quality(codec),))
    assert CodecDefence(plan).settings() == {**codec.settings(), "version": codec.version()}


@pytest.mark.parametrize("threat", THREATS)
def test_every_threat_model_attacks_every_codec(codec: Codec, threat: str) -> None:
    """The view gives one row of finite logits and gradients per image, and the attack stays in its ball."""
    if threat.endswith("differentiable") and codec.name not in DIFFERENTIABLE.names():
        pytest.skip(f"no differentiable model of {codec.name}")
    several = (codec.scale.lowest, middle_quality(codec), codec.scale.highest)
    if threat.startswith("eot-") and len(set(several)) < len(several):
        pytest.skip(f"{codec.name} has not several qualities to draw from")
    qualities = several if threat.startswith("eot-") else several[1:2]
    defence = CodecDefence(DefencePlan(codec_text(codec.name), qualities, (threat,)))
    torch.manual_seed(0)
    victim = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    view = attackers_view(victim, defence, threat)
    assert (view is victim) == (threat == "static")
    images = photos(4, 17, 23)
    probe = images.clone().requires_grad_(True)
    logits = view(probe)
    assert logits.shape == (4, 4)
    (gradient,) = torch.autograd.grad(logits.square().sum(), probe)
    assert gradient.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert torch.isfinite(gradient).all()
    assert gradient.flatten(1).any(1).all()
    attacked = build_attack("fgsm", {"eps": 4 / 255}).run(view, images, torch.arange(4), seed=0)
    assert float((attacked - images).abs().max()) <= 4 / 255 + 1e-6


@pytest.mark.parametrize("name", DIFFERENTIABLE.names())
def test_a_differentiable_model_is_of_a_codec_and_near_it(name: str) -> None:
    """Nearer to what the codec makes than the image is: at every quality it shows the codec's own loss."""
    codec, model = build_codec(name), DIFFERENTIABLE.load(name)
    images = photos(3, 96, 128)
    for quality in np.linspace(codec.scale.lowest, codec.scale.highest, 7).round().astype(int).tolist():
        with torch.no_grad():
            modelled = pixels_of(model(images, quality))
        for before, after in zip(pixels_of(images), modelled, strict=True):
            decoded = codec.decode(codec.encode(before, quality))
            # 45 dB is what rounding to whole levels here and there leaves
            assert psnr_db(after, decoded) > min(psnr_db(before, decoded) + 3, 45), quality


@pytest.mark.parametrize("name", DIFFERENTIABLE.names())
@pytest.mark.parametrize("sides", SIDES)
def test_a_differentiable_model_takes_any_image(name: str, sides: tuple[int, int]) -> None:
    """Each image by itself, in [0, 1], with finite gradients."""
    model = DIFFERENTIABLE.load(name)
    images = photos(3, *sides).requires_grad_(True)
    quality = middle_quality(build_codec(name))
    made = model(images, quality)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert float(made.detach().min()) >= 0
    assert float(made.detach().max()) <= 1
    for index in range(3):
        assert torch.allclose(model(images[index : index + 1], quality)[0], made[index], atol=1e-5)
    (gradient,) = torch.autograd.grad((made - 0.3).square().sum(), images)
    assert torch.isfinite(gradient).all()


def test_threat_models_fit_defences_of_one_quality_or_of_several() -> None:
    assert {*fitting_threats(list(THREATS), False), *fitting_threats(list(THREATS), True)} == set(THREATS)
    assert set(fitting_threats(list(THREATS), False)) & set(fitting_threats(list(THREATS), True)) == {"static"}
