"""Detection losses against naive loops."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.pointcloud.detection.losses import gaussian_focal_loss, sigmoid_focal_loss


def test_sigmoid_focal_loss_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, generator=generator, dtype=torch.float64) * 3
    targets = torch.rand(40, generator=generator) < 0.3
    expected = []
    for logit, target in zip(logits.tolist(), targets.tolist()):
        probability = 1 / (1 + math.exp(-logit))
        true = probability if target else 1 - probability
        expected.append(-(0.3 if target else 0.7) * (1 - true) ** 1.5 * math.log(true))
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
def test_sigmoid_focal_loss_gradients(gamma):
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    for target in (torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)):
        assert torch.autograd.gradcheck(lambda value, target=target: sigmoid_focal_loss(value, target, gamma=gamma), (logits,))


def test_sigmoid_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([True, True, False, False]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 50.0, 150.0, 0.0]))
    loss.sum().backward()
    assert logits.grad.isfinite().all() and logits.grad[1] < 0 < logits.grad[2]


def test_gaussian_focal_loss_against_a_loop():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64) * 2
    heatmap = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64) * 0.99
    heatmap[0, 1, 2, 3] = heatmap[1, 2, 0, 0] = 1.0
    total, ones = 0.0, 0
    for logit, target in zip(logits.flatten().tolist(), heatmap.flatten().tolist()):
        probability = 1 / (1 + math.exp(-logit))
        if target == 1.0:
            total += (1 - probability) ** 2 * math.log(probability)
            ones += 1
        else:
            total += (1 - target) ** 4 * probability**2 * math.log(1 - probability)
    assert ones == 2
    assert float(gaussian_focal_loss(logits, heatmap)) == pytest.approx(-total / 2)


def test_gaussian_focal_loss_without_a_centre_is_divided_by_one():
    logits = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    probability = 1 / (1 + math.exp(-0.3))
    assert float(gaussian_focal_loss(logits, torch.zeros_like(logits))) == pytest.approx(-4 * probability**2 * math.log(1 - probability))


def test_gaussian_focal_loss_keeps_a_gradient_at_a_confidently_missed_centre():
    logits = torch.tensor([-60.0], requires_grad=True)
    gaussian_focal_loss(logits, torch.ones(1)).backward()
    assert logits.grad.item() == pytest.approx(-1.0, abs=1e-3)
