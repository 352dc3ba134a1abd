"""Compression as a defence on a GPU: the codec gives the images and bytes of the CPU, and gradients are near."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limla.defences import CodecDefence, attackers_view
from limla.plans import THREATS, DefencePlan
from tests.contracts.test_defences import photos

pytestmark = pytest.mark.gpu


def test_defended_images_stay_on_the_gpu_and_are_the_cpus() -> None:
    images = photos(9, 40, 33)
    defence = CodecDefence(DefencePlan("jpeg", (10, 60)))
    there, here = defence.apply(images.cuda(), seed=4), defence.apply(images, seed=4)
    assert there.images.is_cuda
    assert torch.equal(there.images.cpu(), here.images)
    assert there.num_bytes == here.num_bytes


@pytest.mark.parametrize("threat", [name for name in THREATS if name != "static"])
def test_attackers_gradients_are_the_cpus(threat: str) -> None:
    torch.manual_seed(0)
    victim = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    defence = CodecDefence(DefencePlan("jpeg", (10, 60) if threat.startswith("eot-") else (30,), (threat,)))
    found = []
    for device in ("cpu", "cuda"):
        probe = photos(4, 40, 33).to(device).requires_grad_(True)
        logits = attackers_view(victim.to(device), defence, threat)(probe)
        found.append(torch.autograd.grad(logits.square().sum(), probe)[0].cpu().flatten(1))
    # rounding of a coefficient may fall on the other side
    assert float(nn.functional.cosine_similarity(*found).min()) > 0.98
