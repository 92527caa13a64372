"""k nearest neighbours, ball query, and interpolation from the nearest points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import expect, expect_same_device
from suite3d.ops.geometry_checks import expect_clouds, expect_points
from suite3d.ops.reference import neighbors as reference


def _fake_knn(query: Tensor, points: Tensor, k: int, query_offsets: Tensor, point_offsets: Tensor) -> tuple[Tensor, Tensor]:
    return query_offsets.new_empty(query.shape[0], k), query.new_empty(query.shape[0], k)


def _fake_ball_query(query: Tensor, points: Tensor, radius: float, k: int, query_offsets: Tensor, point_offsets: Tensor) -> tuple[Tensor, Tensor]:
    return query_offsets.new_empty(query.shape[0], k), query_offsets.new_empty(query.shape[0])


library.define("knn(Tensor query, Tensor points, SymInt k, Tensor query_offsets, Tensor point_offsets) -> (Tensor, Tensor)", _fake_knn)
library.define(
    "ball_query(Tensor query, Tensor points, float radius, SymInt k, Tensor query_offsets, Tensor point_offsets) -> (Tensor, Tensor)",
    _fake_ball_query,
)


@torch.no_grad()
def knn(query: Tensor, points: Tensor, k: int, *, query_offsets: Tensor | None = None, point_offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Exact k nearest neighbours in 3D, inside each cloud of a jagged batch. No gradient: recompute distances from the rows for one.

    Neighbours come by squared distance (float32, ``dx*dx + dy*dy + dz*dz``, every operation rounded once), equal distances by row.
    A query that is itself among the points finds itself. Points or queries with NaN, and distances that overflow, match nothing.

    Args:
        query: ``(Q, 3)`` float32.
        points: ``(P, 3)`` float32.
        k: neighbours wanted, >= 1; where a cloud has fewer the rest is padded.
        query_offsets, point_offsets: ``(B + 1,)`` int64 each, or neither for one cloud.

    Returns:
        index: ``(Q, k)`` int64 global rows of ``points``, -1 where there is none.
        distance2: ``(Q, k)`` float32 squared distances, ascending, infinity where there is none.

    Raises:
        ValueError: wrong shape, dtype, device, offsets or k.
    """
    expect_points(query, "query")
    expect_points(points, "points")
    expect(k >= 1, f"k: expected at least 1, got {k}")
    query_offsets, point_offsets = expect_clouds(query, query_offsets, points, point_offsets, names=("query", "points"))
    kernel = library.kernel("knn", query.device.type) or reference.knn
    return kernel(query, points, k, query_offsets, point_offsets)


@torch.no_grad()
def ball_query(
    query: Tensor, points: Tensor, radius: float, k: int, *, query_offsets: Tensor | None = None, point_offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The first ``k`` points, in row order, nearer than ``radius`` to each query (PointNet++, Qi et al. 2017, sec. 3.3). No gradient.

    Strictly nearer: ``d2 < radius * radius`` in float32, as in the released code. Unused slots hold -1 (the released code repeats
    the first neighbour: ``torch.where(index < 0, index[:, :1], index)``).

    Args:
        query: ``(Q, 3)`` float32.
        points: ``(P, 3)`` float32.
        radius: positive and finite, in the units of the points.
        k: slots, >= 1.
        query_offsets, point_offsets: ``(B + 1,)`` int64 each, or neither for one cloud.

    Returns:
        index: ``(Q, k)`` int64 global rows of ``points``, ascending, -1 where there is none.
        count: ``(Q,)`` int64 slots used, at most ``k``.

    Raises:
        ValueError: wrong shape, dtype, device, offsets, radius or k.
    """
    expect_points(query, "query")
    expect_points(points, "points")
    expect(k >= 1, f"k: expected at least 1, got {k}")
    expect(radius > 0 and math.isfinite(radius), f"radius: expected a positive finite number, got {radius}")
    query_offsets, point_offsets = expect_clouds(query, query_offsets, points, point_offsets, names=("query", "points"))
    kernel = library.kernel("ball_query", query.device.type) or reference.ball_query
    return kernel(query, points, float(radius), k, query_offsets, point_offsets)


def three_interpolate(
    query: Tensor, points: Tensor, feats: Tensor, *, query_offsets: Tensor | None = None, point_offsets: Tensor | None = None, power: float = 2.0
) -> Tensor:
    """Features at the queries from the three nearest points, weighted by ``1 / d^power`` (PointNet++, Qi et al. 2017, eq. 2: k = 3, p = 2).

    Args:
        query: ``(Q, 3)`` float32.
        points: ``(P, 3)`` float32.
        feats: ``(P, C)`` floating, one row a point.
        query_offsets, point_offsets: ``(B + 1,)`` int64 each, or neither for one cloud.
        power: p of the weights; 1 is what the released code of some followers uses.

    Returns:
        ``(Q, C)`` in the dtype of ``feats``, zero where a cloud has no points. Differentiable in ``feats``.
    """
    expect(
        feats.dim() == 2 and feats.shape[0] == points.shape[0], f"feats: expected (P, C) with P = {points.shape[0]} points, got {tuple(feats.shape)}"
    )
    expect_same_device(points=points, feats=feats)
    index, distance2 = knn(query, points, 3, query_offsets=query_offsets, point_offsets=point_offsets)
    # Relative to the nearest, the weights neither overflow nor vanish; the floor bounds the weight of a point that is hit exactly.
    floored = distance2.clamp(min=1e-20)
    weights = torch.where(index >= 0, (floored[:, :1] / floored) ** (power / 2), 0.0)  # [Q, 3]
    weights = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-30)).to(feats.dtype)
    if points.shape[0] == 0:
        return feats.new_zeros(query.shape[0], feats.shape[1])
    # A place without a neighbour takes the nearest point's features (weight 0), not those of some row that may hold NaN.
    nearest = torch.where(index >= 0, index, index[:, :1])
    mixed = torch.einsum("qk,qkc->qc", weights, feats[nearest.clamp(min=0)])
    return torch.where(index[:, :1] >= 0, mixed, 0.0)
