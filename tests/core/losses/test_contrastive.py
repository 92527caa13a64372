"""Sinkhorn, NT-Xent, the queue's InfoNCE, margin ranking and the masked absolute error against their formulas, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.losses.margin_ranking import margin_ranking_loss
from suite3d.losses.masked_l1 import masked_l1
from suite3d.losses.nt_xent import nt_xent
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.losses.sinkhorn import sinkhorn, swapped_prediction, usage
from tests.core.losses.test_losses import dot, rows, unit


def cosines(n, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.nn.functional.normalize(torch.randn(m, 8, generator=generator), dim=1) for m in (n, k))
    return first @ second.T


def slow_sinkhorn(scores, eps, sweeps):
    """The plan as a matrix that is rewritten row by row and column by column, as in the paper."""
    n, k = scores.shape
    plan = [[math.exp(float(s) / eps) for s in row] for row in scores]
    total = sum(map(sum, plan))
    plan = [[p / total for p in row] for row in plan]
    for _ in range(sweeps):
        for j in range(k):
            column = sum(plan[i][j] for i in range(n))
            for i in range(n):
                plan[i][j] /= column * k
        for i in range(n):
            row = sum(plan[i])
            plan[i] = [p / row / n for p in plan[i]]
    return torch.tensor([[p * n for p in row] for row in plan], dtype=torch.float64)


@pytest.mark.parametrize(("eps", "sweeps"), [(0.05, 1), (0.05, 10), (0.03, 3), (1.0, 10)])
def test_sinkhorn_is_its_definition(eps, sweeps):
    scores = cosines(23, 7)
    expected = slow_sinkhorn(scores.double(), eps, sweeps)
    assigned = sinkhorn(scores, eps=eps, sweeps=sweeps)
    torch.testing.assert_close(assigned.double(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(assigned.argmax(1), expected.argmax(1))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 40), k=st.integers(2, 12), shift=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_sinkhorn_balances_and_ignores_a_shift(n, k, shift, seed):
    scores = cosines(n, k, seed)
    plan = sinkhorn(scores, eps=0.2, sweeps=200)
    torch.testing.assert_close(plan.sum(1), torch.ones(n), atol=1e-4, rtol=0)
    torch.testing.assert_close(plan.sum(0), torch.full((k,), n / k), atol=2e-2 * n / k, rtol=0)
    torch.testing.assert_close(sinkhorn(scores + shift, eps=0.2), sinkhorn(scores, eps=0.2), atol=1e-4, rtol=1e-3)


def test_sinkhorn_spreads_what_an_argmax_would_collapse():
    scores = cosines(64, 8) * 0.2
    scores[:, 3] += 0.8
    assert set(scores.argmax(1).tolist()) == {3}
    assert usage(scores.argmax(1), 8).item() == pytest.approx(1 / 8)
    balanced = sinkhorn(scores).argmax(1)
    assert usage(balanced, 8) > 0.9
    assert usage(torch.arange(8), 8).item() == pytest.approx(1, abs=1e-6)


def test_swapped_prediction_is_its_definition_and_targets_carry_no_gradient():
    s1, s2 = (cosines(20, 5, seed).requires_grad_() for seed in (1, 2))
    loss, (q1, q2) = swapped_prediction(s1, s2)
    a1, a2 = (slow_sinkhorn(s.detach().double(), 0.05, 10).argmax(1) for s in (s1, s2))
    assert torch.equal(q1, a1) and torch.equal(q2, a2)
    expected = 0.0
    for scores, targets in ((s1, a2), (s2, a1)):
        for row, target in zip(scores.tolist(), targets.tolist()):
            expected -= math.log(math.exp(row[target] / 0.1) / sum(math.exp(s / 0.1) for s in row)) / len(scores)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    soft = torch.softmax(s1.detach() / 0.1, dim=1)
    torch.testing.assert_close(s1.grad, (soft - torch.nn.functional.one_hot(a2, 5)) / 0.1 / 20, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("t", [0.1, 1.0])
def test_nt_xent(t):
    first, second = rows(5, 4, 1), rows(5, 4, 2)
    views = [unit(row) for row in torch.cat([first, second]).tolist()]
    expected = 0.0
    for i, anchor in enumerate(views):
        scores = {k: math.exp(dot(anchor, other) / t) for k, other in enumerate(views) if k != i}
        expected -= math.log(scores[(i + 5) % 10] / sum(scores.values())) / 10
    assert nt_xent(first, second, temperature=t).item() == pytest.approx(expected, abs=1e-5)
    assert nt_xent(second * 3, first, temperature=t).item() == pytest.approx(expected, abs=1e-5), "symmetric, and blind to length"


def test_queue_info_nce():
    queries, keys, queue = rows(4, 6, 1), rows(4, 6, 2), rows(9, 6, 3).requires_grad_()
    expected = 0.0
    for q, k in zip(queries.tolist(), keys.tolist()):
        own = math.exp(dot(unit(q), unit(k)) / 0.07)
        expected -= math.log(own / (own + sum(math.exp(dot(unit(q), unit(n)) / 0.07) for n in queue.tolist()))) / 4
    loss = queue_info_nce(queries.requires_grad_(), keys, queue, temperature=0.07)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert queue.grad is None and queries.grad.abs().max() > 0


def test_margin_ranking():
    near, far = rows(1, 9, 1)[0], rows(1, 9, 2)[0]
    expected = sum(max(0.0, 1 - a + b) for a, b in zip(near.tolist(), far.tolist())) / 9
    assert margin_ranking_loss(near, far).item() == pytest.approx(expected, abs=1e-6)
    assert margin_ranking_loss(far + 10, far, margin=2.0).item() == 0


def test_masked_l1():
    predicted, target = rows(6, 5, 1).view(2, 3, 5), rows(6, 5, 2).view(2, 3, 5)
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    picked = [(0, 0), (0, 2), (1, 2)]
    expected = sum(abs(float(predicted[b, n, d] - target[b, n, d])) for b, n in picked for d in range(5)) / 15
    assert masked_l1(predicted, target, hidden).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sinkhorn(rows(3, 2), eps=0.0),
        lambda: sinkhorn(rows(3, 2)[0]),
        lambda: sinkhorn(rows(3, 2), sweeps=0),
        lambda: swapped_prediction(rows(3, 2), rows(3, 4)),
        lambda: nt_xent(rows(3, 2), rows(2, 2), temperature=0.1),
        lambda: nt_xent(rows(1, 2), rows(1, 2), temperature=0.1),
        lambda: queue_info_nce(rows(3, 2), rows(3, 2), rows(5, 3), temperature=0.1),
        lambda: margin_ranking_loss(rows(1, 2)[0], rows(1, 3)[0]),
        lambda: margin_ranking_loss(rows(1, 2)[0], rows(1, 2)[0], margin=-1.0),
        lambda: masked_l1(rows(6, 5).view(2, 3, 5), rows(6, 5).view(2, 3, 5), torch.ones(2, 5, dtype=torch.bool)),
    ],
)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="expected|must"):
        call()
