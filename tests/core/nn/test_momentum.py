"""Moving averages, their schedules, and the queue."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from suite3d.nn.momentum import momentum_at, momentum_copy, momentum_update, run_shuffled
from suite3d.nn.queue import FeatureQueue


def test_average_is_the_recursion():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = momentum_copy(student)
    expected = [p.detach().clone().double() for p in student.parameters()]
    for _ in range(5):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student(torch.randn(8, 3))
        momentum_update(teacher, student, 0.9)
        expected = [0.9 * e + 0.1 * p.detach().double() for e, p in zip(expected, student.parameters())]
    for e, p in zip(expected, teacher.parameters()):
        torch.testing.assert_close(p.double(), e, atol=1e-6, rtol=1e-6)
        assert not p.requires_grad
    assert torch.equal(teacher[1].running_mean, torch.zeros(4)), "the teacher's statistics are its own"


def test_average_ends_are_exact_and_mismatches_are_refused():
    student, teacher = nn.Linear(3, 3), nn.Linear(3, 3)
    before = teacher.weight.clone()
    momentum_update(teacher, student, 1.0)
    assert torch.equal(teacher.weight, before)
    momentum_update(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)
    with pytest.raises(ValueError, match="same parameters"):
        momentum_update(teacher, nn.Linear(3, 3, bias=False), 0.5)
    with pytest.raises(ValueError, match="momentum"):
        momentum_update(teacher, student, 1.5)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_schedule(shape):
    values = [momentum_at(step, 11, 0.99, 1.0, shape=shape) for step in range(11)]
    assert values[0] == pytest.approx(0.99) and values[-1] == pytest.approx(1.0) and values[5] == pytest.approx(0.995)
    assert values == sorted(values)
    share = 0.3 if shape == "linear" else (1 - math.cos(math.pi * 0.3)) / 2
    assert values[3] == pytest.approx(0.99 + 0.01 * share)
    assert momentum_at(0, 1, 0.9, 1.0) == 0.9


def test_queue_keeps_the_latest_in_a_ring():
    queue = FeatureQueue(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(5))
    latest = list(queue.rows.clone())
    for step in range(7):
        rows = torch.randn(step % 4, 2)
        queue.push(rows)
        latest = (latest + list(rows))[-5:]
        found = torch.roll(queue.rows, -int(queue.position), dims=0)
        assert torch.equal(found, torch.stack(latest))
    queue.push(torch.arange(16.0).view(8, 2))
    assert sorted(queue.rows[:, 0].tolist()) == [6, 8, 10, 12, 14]


def test_queue_leaves_out_what_is_not_finite_and_resumes():
    queue = FeatureQueue(4, 2)
    queue.push(torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [torch.inf, 1.0], [3.0, 4.0]]))
    assert queue.rows[:2].tolist() == [[1, 2], [3, 4]] and int(queue.position) == 2 and queue.rows.isfinite().all()
    other = FeatureQueue(4, 2)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.rows, queue.rows) and int(other.position) == 2
    with pytest.raises(ValueError, match="positive"):
        FeatureQueue(0, 2)


def test_a_single_process_is_not_shuffled():
    rows = torch.randn(4, 3)
    (out,) = run_shuffled(nn.Sequential(nn.Linear(3, 2), nn.Unflatten(0, (1, -1))), rows)
    assert out.shape == (4, 2) and not out.requires_grad
