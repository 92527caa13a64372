"""Sums over repeated rows come out the same to the bit, run after run, on several threads."""

from __future__ import annotations

import torch

from suite3d.engine.exact import deterministic_cpu


def gradient() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 64, generator=generator, requires_grad=True)
    rows = torch.randint(0, 200, (40_000,), generator=generator)
    (table[rows] * torch.randn(40_000, 64, generator=generator)).sum().backward()
    assert table.grad is not None
    return table.grad


def test_repeated_rows_add_up_in_one_order():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with deterministic_cpu(torch.device("cpu")):
            first = gradient()
            assert all(torch.equal(first, gradient()) for _ in range(5))
    finally:
        torch.set_num_threads(threads)


def test_the_switch_is_put_back():
    with deterministic_cpu(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
