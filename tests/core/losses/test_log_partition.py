"""The streamed denominator equals the one with the whole matrix, in value and gradient."""

from __future__ import annotations

import pytest
import torch

import suite3d.losses.log_partition as module
from suite3d.losses.log_partition import log_partition


def problem(queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(queries, 5, generator=generator, dtype=torch.float64).requires_grad_()
    k = torch.randn(keys, 5, generator=generator, dtype=torch.float64).requires_grad_()
    return q, k, torch.randint(-1, 4, (queries,), generator=generator), torch.randint(-1, 4, (keys,), generator=generator)


def whole(q: torch.Tensor, k: torch.Tensor, q_group: torch.Tensor, k_group: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
    rows = []
    for i in range(len(q)):
        keep = [j for j in range(len(k)) if q_group[i] < 0 or q_group[i] != k_group[j] or (own is not None and j == own[i])]
        rows.append(torch.stack([(q[i] * k[j]).sum() for j in keep]).logsumexp(0))
    return torch.stack(rows)


@pytest.mark.parametrize("block", [1, 640, 2**20])  # 64 rows at a time is the least: several blocks, a ragged last one, one block
def test_value_and_gradient_are_those_of_the_whole_matrix(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_BLOCK", block)
    q, k, q_group, k_group = problem(150, 9)
    own = torch.arange(150) % 9
    weights = torch.linspace(-1, 1, 150, dtype=torch.float64)
    results = []
    for compute in (lambda: log_partition(q, k, leave_out=(q_group, k_group), own=own), lambda: whole(q, k, q_group, k_group, own)):
        value = compute()
        results.append((value.detach(), *torch.autograd.grad((weights * value).sum(), (q, k))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradcheck_and_plain_logsumexp_without_groups() -> None:
    q, k, _, _ = problem(4, 6)
    assert torch.autograd.gradcheck(log_partition, (q, k))
    torch.testing.assert_close(log_partition(q, k), (q @ k.T).logsumexp(1))


def test_no_key_left_gives_minus_infinity_and_no_gradient() -> None:
    q, k, _, _ = problem(2, 3)
    value = log_partition(q, k, leave_out=(torch.tensor([0, 1]), torch.zeros(3, dtype=torch.int64)))
    assert value[0] == -torch.inf and value[1].isfinite()
    value[1].backward()
    assert q.grad is not None and k.grad is not None and q.grad.isfinite().all() and (q.grad[0] == 0).all() and k.grad.isfinite().all()


def test_huge_logits_do_not_overflow() -> None:
    q = torch.tensor([[1e4, 0.0]], requires_grad=True)
    value = log_partition(q, torch.eye(2))
    value.backward()
    assert value.item() == 1e4 and torch.equal(q.grad, torch.tensor([[1.0, 0.0]]))
