"""Ball query against a scan in row order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import ball_query, use_reference
from tests.ops.clouds import KINDS, cloud, clouds, squared


def naive(query, points, radius, k):
    inside = squared(query, points) < np.float32(radius) * np.float32(radius)
    index = np.full((len(query), k), -1)
    for row in range(len(query)):
        rows = np.flatnonzero(inside[row])[:k]
        index[row, : len(rows)] = rows
    return torch.from_numpy(index), torch.from_numpy(np.minimum(inside.sum(1), k))


def check(query, points, radius, k):
    for got, expected in zip(ball_query(query, points, radius, k), naive(query, points, radius, k), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("queries", "size", "radius", "k"), [(1, 1, 1.0, 1), (30, 9, 2.0, 20), (40, 600, 1.0, 8), (40, 600, 1e30, 50), (5, 600, 1e-3, 4)]
)
def test_is_the_definition(kind, queries, size, radius, k, backend):
    radius = min(radius, 1e18)
    check(cloud(kind, queries, 1), cloud(kind, size, 1), radius, k)


def test_strictly_inside(backend):
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0.999, 0], [2, 0, 0]])
    index, count = ball_query(points[:1], points, 1.0, 4)
    assert index.tolist() == [[0, 2, -1, -1]] and count.tolist() == [2]


def test_parity_in_a_jagged_batch(same, compiled_cpu, generator):
    points, query = torch.randn(6000, 3, generator=generator), torch.randn(800, 3, generator=generator)
    ends = {"query_offsets": torch.tensor([0, 100, 100, 800]), "point_offsets": torch.tensor([0, 100, 3000, 6000])}
    same(lambda: ball_query(query, points, 0.5, 16, **ends))
    same(lambda: ball_query(points, points, 0.3, 70))


def test_not_finite_points_match_nothing(backend):
    points = cloud("normal", 400, 0)
    points[3, 0], points[5, 2] = float("nan"), float("inf")
    check(points, points, 0.7, 6)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(clouds(40), clouds(400), st.sampled_from([1e-21, 0.5, 1.0, 2.0, 100.0, 1e17]), st.integers(1, 40))
def test_adversarial(query, points, radius, k):
    check(query, points, radius, k)
    with use_reference():
        check(query, points, radius, k)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_radius(radius, backend):
    with pytest.raises(ValueError, match="radius: expected a positive finite number"):
        ball_query(torch.zeros(1, 3), torch.zeros(1, 3), radius, 1)


def test_refuses_a_count(backend):
    with pytest.raises(ValueError, match="k: expected at least 1"):
        ball_query(torch.zeros(1, 3), torch.zeros(1, 3), 1.0, 0)


def test_compiles_and_is_declared_well(compiled_cpu, generator):
    points, ends = torch.randn(300, 3, generator=generator), torch.tensor([0, 300])
    torch.library.opcheck(torch.ops.suite3d.ball_query.default, (points, points, 0.5, 4, ends, ends))
    compiled = torch.compile(lambda x: ball_query(x, x, 0.5, 4)[1] + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(points), ball_query(points, points, 0.5, 4)[1] + 1)
