"""k nearest neighbours and interpolation against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import knn, three_interpolate, use_reference
from tests.ops.clouds import KINDS, cloud, clouds, squared


def naive(query, points, k):
    """Full sort by distance, then row; numpy."""
    distance = squared(query, points)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    nearest = np.pad(np.take_along_axis(distance, order, axis=1), ((0, 0), (0, k - order.shape[1])), constant_values=np.inf)
    index = np.where(np.isfinite(nearest), np.pad(order, ((0, 0), (0, k - order.shape[1]))), -1)
    return torch.from_numpy(index), torch.from_numpy(nearest)


def check(query, points, k):
    for got, expected in zip(knn(query, points, k), naive(query, points, k), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("queries", "size", "k"), [(1, 1, 1), (20, 7, 9), (40, 600, 5), (33, 500, 40)])
def test_is_the_definition(kind, queries, size, k, backend):
    check(cloud(kind, queries, 1), cloud(kind, size, 2), k)


@pytest.mark.parametrize("kind", KINDS)
def test_self_query(kind, backend):
    points = cloud(kind, 500, 4)
    check(points, points, 17)


@pytest.mark.parametrize("kind", ["grid", "normal", "clusters"])
def test_parity_on_a_large_cloud(kind, same, compiled_cpu):
    points, query = cloud(kind, 2500, 0), cloud(kind, 200, 1)
    same(lambda: knn(points, points, 8))
    same(lambda: knn(query, points, 100))


def test_jagged_batch_is_each_cloud_alone(same, generator):
    points, query = torch.randn(3000, 3, generator=generator), torch.randn(400, 3, generator=generator)
    ends = {"query_offsets": torch.tensor([0, 10, 10, 50, 390, 400]), "point_offsets": torch.tensor([0, 5, 300, 300, 2999, 3000])}
    same(lambda: knn(query, points, 7, **ends))
    index, distance2 = knn(query, points, 7, **ends)
    for b in range(5):
        q = slice(int(ends["query_offsets"][b]), int(ends["query_offsets"][b + 1]))
        begin, end = ends["point_offsets"][b : b + 2].tolist()
        alone, alone_distance2 = knn(query[q], points[begin:end], 7)
        assert torch.equal(index[q], torch.where(alone >= 0, alone + begin, -1)) and torch.equal(distance2[q], alone_distance2)


def test_not_finite_points_match_nothing(backend):
    points = cloud("normal", 400, 0)
    points[3, 0], points[5, 2], points[7] = float("nan"), float("inf"), -float("inf")
    check(points, points, 4)
    index, distance2 = knn(points, points, 4)
    assert (index[[3, 5, 7]] == -1).all() and (distance2[[3, 5, 7]] == torch.inf).all()
    assert not torch.isin(index, torch.tensor([3, 5, 7])).any()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(clouds(60), clouds(400), st.integers(1, 40))
def test_adversarial(query, points, k):
    check(query, points, k)
    with use_reference():
        check(query, points, k)


def test_strided_input(backend, generator):
    wide = torch.randn(300, 6, generator=generator)
    check(wide[:, :3], wide[:, 3:], 3)


def test_refuses(backend):
    good = torch.zeros(4, 3)
    ends = torch.tensor([0, 4])
    with pytest.raises(ValueError, match=r"query: expected \(N, 3\)"):
        knn(torch.zeros(3), good, 1)
    with pytest.raises(ValueError, match="points: expected float32, got float16"):
        knn(good, good.half(), 1)
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        knn(good, good, 0)
    with pytest.raises(ValueError, match="offsets of both"):
        knn(good, good, 1, query_offsets=ends)
    with pytest.raises(ValueError, match="as many clouds"):
        knn(good, good, 1, query_offsets=ends, point_offsets=torch.tensor([0, 2, 4]))
    with pytest.raises(ValueError, match="offsets of points"):
        knn(good, good, 1, query_offsets=ends, point_offsets=torch.tensor([0, 5]))


def test_compiles_and_is_declared_well(compiled_cpu, generator):
    points, ends = torch.randn(300, 3, generator=generator), torch.tensor([0, 300])
    torch.library.opcheck(torch.ops.suite3d.knn.default, (points, points, 4, ends, ends))
    compiled = torch.compile(lambda x: knn(x, x, 4)[1].sum(), backend="aot_eager", fullgraph=True, dynamic=True)
    assert torch.equal(compiled(points), knn(points, points, 4)[1].sum())
    assert torch.equal(compiled(points[:200]), knn(points[:200], points[:200], 4)[1].sum())


def test_interpolation_is_the_papers_formula(backend, generator):
    points, query, feats = torch.randn(50, 3, generator=generator), torch.randn(9, 3, generator=generator), torch.randn(50, 4, generator=generator)
    for power in (1.0, 2.0):
        distance = torch.cdist(query.double(), points.double())
        near, rows = distance.topk(3, largest=False)
        weights = 1 / near**power
        expected = ((weights / weights.sum(1, keepdim=True))[..., None] * feats.double()[rows]).sum(1)
        torch.testing.assert_close(three_interpolate(query, points, feats, power=power).double(), expected, rtol=1e-4, atol=1e-5)


def test_interpolation_at_the_points_and_beyond(backend, generator):
    points, feats = torch.randn(50, 3, generator=generator), torch.randn(50, 4, generator=generator, requires_grad=True)
    out = three_interpolate(points, points, feats)
    torch.testing.assert_close(out, feats, rtol=1e-5, atol=1e-6)
    out.sum().backward()
    torch.testing.assert_close(feats.grad.sum(), torch.tensor(200.0))  # weights sum to one
    assert torch.equal(three_interpolate(points, points[:0], feats[:0]), torch.zeros(50, 4))
    torch.testing.assert_close(three_interpolate(points, points[:1], feats[:1]), feats[:1].expand(50, 4))
    with pytest.raises(ValueError, match="feats: expected"):
        three_interpolate(points, points, feats[:3])
