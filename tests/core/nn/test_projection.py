"""The projection heads against what they say they compute."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.nn.heads import projector
from suite3d.nn.projection import DistillationHead, FixedReweighting, Prototypes, WordPredictor


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


def test_fixed_reweighting():
    head = FixedReweighting(5, kappa=1.5)
    x = torch.randn(3, 5, generator=generator(), requires_grad=True)
    for row, out in zip(x.tolist(), head(x).tolist()):
        assert out == pytest.approx([v / 1.5**c for c, v in enumerate(row)], rel=1e-6)
    assert not list(head.parameters()) and "weights" in head.state_dict()
    with pytest.raises(ValueError, match="smaller kappa"):
        FixedReweighting(2000, kappa=1.5)
    with pytest.raises(ValueError, match="above|kappa > 1"):
        FixedReweighting(5, kappa=1.0)


def test_the_linear_head_is_linear_and_the_other_is_not():
    torch.manual_seed(0)
    x, y = torch.randn(2, 4, 6)
    linear, other = projector((6, 3)), projector((6, 8, 3), norm="none")
    torch.testing.assert_close(linear(x + y) + linear(x * 0), linear(x) + linear(y))
    assert not torch.allclose(other(x + y) + other(x * 0), other(x) + other(y))


def test_prototypes_are_cosines():
    head = Prototypes(4, 6, generator=generator())
    x = torch.randn(2, 3, 4, generator=generator(1)) * 7
    for row, out in zip(x.flatten(0, 1).tolist(), head(x).flatten(0, 1).tolist()):
        assert out == pytest.approx([cosine(row, p) for p in head.weight.tolist()], abs=1e-6)
    assert torch.equal(Prototypes(4, 6, generator=generator()).weight, head.weight)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), head(x)) and head(x.bfloat16()).dtype == torch.float32


def test_distillation_head():
    head = DistillationHead(5, 7, hidden=8, bottleneck=4, generator=generator())
    again = DistillationHead(5, 7, hidden=8, bottleneck=4, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters()))
    x = torch.randn(3, 5, generator=generator(1))
    out = head(x)
    assert out.shape == (3, 7) and out.abs().max() <= 1
    bottleneck = head.mlp(x)
    assert out[1, 2].item() == pytest.approx(cosine(bottleneck[1].tolist(), head.prototypes.weight[2].tolist()), abs=1e-5)


def test_uninitialised_weights_explode():
    with torch.device("meta"):
        head = DistillationHead(5, 7, hidden=8, bottleneck=4)
    head = head.to_empty(device="cpu")
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    head.reset_parameters(generator())
    assert all(parameter.isfinite().all() for parameter in head.parameters())


def test_word_predictor_follows_the_words():
    torch.manual_seed(0)
    head = WordPredictor(4, 3, gamma=2.0)
    words, x = torch.randn(6, 3, generator=generator(), requires_grad=True), torch.randn(5, 4, generator=generator(1))
    logits = head(x, words)
    for k in range(6):
        weight = head.generate(words[k] / words[k].norm()).tolist()
        assert logits[:, k].tolist() == pytest.approx([2 * cosine(row, weight) for row in x.tolist()], abs=1e-5)
    torch.testing.assert_close(head(x, words.flip(0)), logits.flip(1))
    logits.sum().backward()
    assert words.grad is None and head.gamma.grad is not None
