"""Parts of the slow losses: rows of plain numbers, and what a two-view loss may look at."""

from __future__ import annotations

import math

import torch


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(row):
    norm = math.sqrt(sum(v * v for v in row))
    return [v / norm for v in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def units(x):
    return [unit(row) for row in x.tolist()]


def check_gradient(loss, *inputs):
    """The analytic gradient of a loss in float64 equals finite differences."""
    inputs = [x.detach().clone().double().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)
