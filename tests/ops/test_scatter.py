"""Scatter reductions against loops, with gradients."""

from __future__ import annotations

import pytest
import torch

from suite3d.ops import scatter_max, scatter_mean, scatter_sum

OPS = {"sum": scatter_sum, "mean": scatter_mean, "max": scatter_max}


def loop(kind, values, index, size):
    """One group and one column at a time."""
    out = torch.zeros(size, values.shape[1], dtype=values.dtype)
    for group in range(size):
        rows = values[index == group]
        if len(rows):
            out[group] = {"sum": rows.sum(0), "mean": rows.sum(0) / len(rows), "max": rows.max(0).values}[kind]
    return out


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 1), (40, 7), (3, 50), (0, 0)])
def test_is_the_loop(kind, count, size, backend, generator):
    values = torch.randn(count, 5, generator=generator)
    index = torch.randint(0, max(size, 1), (count,), generator=generator)
    torch.testing.assert_close(OPS[kind](values, index, size), loop(kind, values, index, size))


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize(("count", "size", "width"), [(20000, 3000, 4), (20000, 1, 33), (500, 4000, 1), (100, 20, 0)])
def test_parity(kind, is_sorted, count, size, width, same, compiled_cpu, generator):
    values = torch.randn(count, width, generator=generator).round(decimals=1)  # ties
    index = torch.randint(0, size, (count,), generator=generator)
    index = index.sort().values if is_sorted else index
    weights = torch.randn(size, width, generator=generator)

    def compute():
        leaf = values.clone().requires_grad_()
        out = OPS[kind](leaf, index, size)
        (out * weights).sum().backward()
        return out.detach(), leaf.grad

    same(compute, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", OPS)
def test_gradcheck(kind, backend, generator):
    values = torch.randn(12, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 6, (12,), generator=generator)
    assert torch.autograd.gradcheck(lambda v: OPS[kind](v, index, 6), values)


def test_max_gradient_goes_to_the_first_of_equals(backend):
    values = torch.tensor([[1.0], [3.0], [3.0], [2.0]], requires_grad=True)
    scatter_max(values, torch.tensor([0, 0, 0, 2]), 3).sum().backward()
    assert values.grad.squeeze(1).tolist() == [0.0, 1.0, 0.0, 1.0]


def test_max_of_nan_and_infinity(backend):
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([[1.0, -inf], [nan, -inf], [2.0, 5.0]])
    found = scatter_max(values, torch.tensor([0, 0, 1]), 3)
    torch.testing.assert_close(found, torch.tensor([[nan, -inf], [2.0, 5.0], [0.0, 0.0]]), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_added_in_float(dtype, backend):
    values = torch.full((4096, 1), 0.5, dtype=dtype)
    assert scatter_sum(values, torch.zeros(4096, dtype=torch.int64), 1).item() == 2048  # bfloat16 alone would stop at 128
    assert scatter_mean(values, torch.zeros(4096, dtype=torch.int64), 1).dtype == dtype


@pytest.mark.parametrize("kind", OPS)
def test_says_what_is_wrong(kind, host_backend):
    op = OPS[kind]
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 0 to 2"):
        op(torch.zeros(3, 1), torch.tensor([0, 1, 2]), 2)
    with pytest.raises(ValueError, match="one entry for each of the 3 rows"):
        op(torch.zeros(3, 1), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="index: expected int64"):
        op(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int32), 2)
    with pytest.raises(ValueError, match="values: expected float32"):
        op(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)


@pytest.mark.parametrize("kind", OPS)
def test_compiles_into_one_graph(kind, compiled_cpu, generator):
    values, index = torch.randn(30, 4, generator=generator), torch.randint(0, 9, (30,), generator=generator)
    traced = torch.compile(lambda v: OPS[kind](v, index, 9), fullgraph=True, backend="aot_eager")
    first, second = values.clone().requires_grad_(), values.clone().requires_grad_()
    traced(first).square().sum().backward()
    OPS[kind](second, index, 9).square().sum().backward()
    torch.testing.assert_close(first.grad, second.grad)
