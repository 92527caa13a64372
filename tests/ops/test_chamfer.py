"""Chamfer distances against torch.cdist, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from suite3d.ops import chamfer_distance, use_reference
from tests.ops.clouds import KINDS, cloud, clouds, squared


def by_cdist(a, b):
    """The definition: minima of the full matrix, in float64, differentiable."""
    matrix = (a[:, None] - b[None]).square().sum(-1)
    return matrix.min(dim=1).values, matrix.min(dim=0).values


def check(a, b):
    d2_ab, d2_ba, index_ab, index_ba = chamfer_distance(a, b)
    for got, index, first, second in ((d2_ab, index_ab, a, b), (d2_ba, index_ba, b, a)):
        matrix = squared(first, second)
        if not len(first) or not len(second):
            assert (got == torch.inf).all() and (index == -1).all()
            continue
        assert torch.equal(got, torch.from_numpy(matrix.min(1)))
        assert torch.equal(index, torch.where(got < torch.inf, torch.from_numpy(matrix.argmin(1)), -1))  # the first of equals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 9), (700, 300), (0, 5), (5, 0), (0, 0)])
def test_is_the_definition(kind, n, m, backend):
    check(cloud(kind, n, 0), cloud(kind, m, 1))


def test_parity_in_a_jagged_batch(same, compiled_cpu, generator):
    a, b = torch.randn(5000, 3, generator=generator), torch.randn(4000, 3, generator=generator)
    ends = {"a_offsets": torch.tensor([0, 30, 30, 2000, 5000]), "b_offsets": torch.tensor([0, 1000, 1010, 1010, 4000])}
    weights = torch.randn(9000, generator=generator)

    def compute():
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        d2_ab, d2_ba, index_ab, index_ba = chamfer_distance(first, second, **ends)
        finite = torch.cat([d2_ab, d2_ba])
        torch.where(finite < torch.inf, finite, 0.0).mul(weights).sum().backward()
        return d2_ab.detach(), d2_ba.detach(), index_ab, index_ba, first.grad, second.grad

    same(compute, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("forward_only", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_gradients_are_those_of_cdist(forward_only, backend, generator):
    a, b = torch.randn(60, 3, generator=generator), torch.randn(50, 3, generator=generator)
    wants = []
    for function, dtype in ((lambda x, y: chamfer_distance(x, y)[:2], torch.float32), (by_cdist, torch.float64)):
        x, y = a.clone().to(dtype).requires_grad_(), b.clone().to(dtype).requires_grad_()
        d2_ab, d2_ba = function(x, y)
        (forward_only[0] * d2_ab.sqrt().sum() + forward_only[1] * d2_ba.mean()).backward()
        wants.append((x.grad.double(), y.grad.double()))
    torch.testing.assert_close(wants[0], wants[1], rtol=1e-4, atol=1e-5)


def test_gradient_of_one_output_only(backend, generator):
    a, b = torch.randn(20, 3, generator=generator, requires_grad=True), torch.randn(30, 3, generator=generator)
    chamfer_distance(a, b)[1].sum().backward()
    x = a.detach().double().requires_grad_()
    by_cdist(x, b.double())[1].sum().backward()
    torch.testing.assert_close(a.grad.double(), x.grad, rtol=1e-4, atol=1e-5)


def test_gradcheck(generator):
    a = torch.randn(11, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: chamfer_distance(x, y)[:2], (a, b))
    for got, expected in zip(chamfer_distance(a, b)[:2], by_cdist(a, b), strict=True):
        torch.testing.assert_close(got, expected)


def test_second_derivative(compiled_cpu, generator):
    """Hessian of the sum of squared distances: 2 on the diagonal of each point for each edge it is on."""
    a, b = torch.randn(6, 3, generator=generator, requires_grad=True), torch.randn(5, 3, generator=generator)
    (grad,) = torch.autograd.grad(chamfer_distance(a, b)[0].sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), a)
    torch.testing.assert_close(second, torch.full_like(second, 2.0))


def test_not_finite_points(backend):
    a, b = cloud("normal", 300, 0), cloud("normal", 250, 1)
    a[4, 1], b[9] = float("nan"), float("inf")
    check(a, b)
    a.requires_grad_()
    d2_ab, d2_ba, *_ = chamfer_distance(a, b)
    assert d2_ab[4] == torch.inf and d2_ba[9] == torch.inf
    (d2_ab[d2_ab < torch.inf].sum() + d2_ba[d2_ba < torch.inf].sum()).backward()
    assert a.grad.isfinite().all() and (a.grad[4] == 0).all()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(clouds(400), clouds(300))
def test_adversarial(a, b):
    check(a, b)
    with use_reference():
        check(a, b)


def test_strided_input(backend, generator):
    wide = torch.randn(300, 6, generator=generator)
    check(wide[:, :3], wide[:, 3:])


def test_refuses(backend):
    good = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"a: expected \(N, 3\)"):
        chamfer_distance(good[None], good)
    with pytest.raises(ValueError, match="b: expected float32, got float64"):
        chamfer_distance(good, good.double())
    with pytest.raises(ValueError, match="offsets of both a and b"):
        chamfer_distance(good, good, a_offsets=torch.tensor([0, 4]))


def test_compiles_and_is_declared_well(compiled_cpu, generator):
    a, b = torch.randn(300, 3, generator=generator, requires_grad=True), torch.randn(200, 3, generator=generator, requires_grad=True)
    ends = torch.tensor([0, 300]), torch.tensor([0, 200])
    torch.library.opcheck(torch.ops.suite3d.chamfer.default, (a, b, *ends))

    def loss(x, y):
        d2_ab, d2_ba, *_ = chamfer_distance(x, y)
        return d2_ab.mean() + d2_ba.mean()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for got, expected in zip(torch.autograd.grad(compiled(a, b), (a, b)), torch.autograd.grad(loss(a, b), (a, b)), strict=True):
        torch.testing.assert_close(got, expected)
