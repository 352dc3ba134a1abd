"""The classification task against numbers worked out by hand and against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss

from limla.tasks.classification import Classification


def test_a_batch_worked_out_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    judged = Classification().judge(logits, torch.tensor([0, 2]))
    assert judged.predictions.tolist() == [0, 1]
    assert judged.correct.tolist() == [True, False]
    assert judged.losses.tolist() == pytest.approx([-math.log(0.7), -math.log(0.25)], rel=1e-6)
    assert judged.confidences.tolist() == pytest.approx([0.7, 0.5], rel=1e-6)


def test_losses_are_scikit_learns_and_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, requires_grad=True)
    labels = torch.randint(5, (40,), generator=generator)
    losses = Classification().losses(logits, labels)
    probabilities = logits.detach().softmax(dim=1).double()
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    expected = log_loss(labels, probabilities, labels=range(5))
    assert float(losses.detach().mean()) == pytest.approx(expected, rel=1e-5)
    losses.mean().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = torch.tensor([[12.0, 0.0]], dtype=torch.bfloat16)
    judged = Classification().judge(logits, torch.tensor([0]))
    assert judged.losses.dtype == torch.float32
    assert float(judged.losses) == pytest.approx(math.log1p(math.exp(-12.0)), rel=1e-2)
    assert not judged.losses.requires_grad
