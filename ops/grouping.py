"""Neighbours of queries: gathered into rows for a set-abstraction network, and found among sorted voxels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import MAX_INT32, Triple, expect, expect_grid, expect_offsets, expect_same_device, expect_tensor, one_cloud, triple
from suite3d.ops.geometry_checks import expect_points
from suite3d.ops.reference import grouping as reference
from suite3d.ops.sparse.maps import check_coords

_COMPILED = (torch.float32, torch.float64)
_FLOATING = (*_COMPILED, torch.float16, torch.bfloat16)


def _fake_group(query: Tensor, points: Tensor, feats: Tensor, index: Tensor) -> Tensor:
    return feats.new_empty(index.shape[0], index.shape[1], 3 + feats.shape[1])


def _fake_group_backward(grad: Tensor, index: Tensor, points: int) -> Tensor:
    return grad.new_empty(points, grad.shape[2] - 3)


def _fake_voxel_query(
    query: Tensor,
    coords: Tensor,
    offsets: Tensor,
    start: list[float],
    size: list[float],
    cells: list[int],
    reach: list[int],
    distance: int,
    radius: float,
    k: int,
) -> tuple[Tensor, Tensor]:
    return offsets.new_empty(query.shape[0], k), offsets.new_empty(query.shape[0])


library.define("group_points(Tensor query, Tensor points, Tensor feats, Tensor index) -> Tensor", _fake_group)
library.define("group_points_backward(Tensor grad, Tensor index, SymInt points) -> Tensor", _fake_group_backward)
library.define(
    "voxel_query(Tensor query, Tensor coords, Tensor offsets, float[] start, float[] size, int[] cells, int[] reach, int distance,"
    " float radius, SymInt k) -> (Tensor, Tensor)",
    _fake_voxel_query,
)


def _save_group(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.points = inputs[2].shape[0]
    ctx.save_for_backward(inputs[3])


def _group_backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
    (index,) = ctx.saved_tensors
    kernel = None if torch.is_grad_enabled() else library.kernel("group_points_backward", grad.device.type)
    return None, None, (kernel or reference.group_points_backward)(grad, index, ctx.points), None


torch.library.register_autograd("suite3d::group_points", _group_backward, setup_context=_save_group, lib=library.schemas)


def _check_index(index: Tensor, points: int) -> None:
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and index.numel() > 0:
        low, high = (int(v) for v in index.aminmax())
        expect(-1 <= low and high < points, f"index: expected rows of the {points} points, or -1, got {low} to {high}")


def group_points(query: Tensor, points: Tensor, feats: Tensor, index: Tensor) -> Tensor:
    """Neighbours of each query as rows for a set-abstraction network (PointNet++, Qi et al. 2017, sec. 3.2).

    A row is the position of the neighbour relative to the query, then its features. Unused slots repeat the first neighbour, which changes
    no maximum over the slots; the rows of a query without neighbours are zero.

    Args:
        query: ``(Q, 3)`` float32.
        points: ``(P, 3)`` float32.
        feats: ``(P, C)`` float32 or float64; float16 and bfloat16 are taken too (gradients are added in float32). C may be 0.
        index: ``(Q, k)`` int64 rows of ``points``, used slots first, -1 for the others: what ``ball_query``, ``knn`` and ``voxel_query``
            return. Checked on the CPU; on CUDA a row that does not exist counts as unused (no device sync).

    Returns:
        ``(Q, k, 3 + C)`` in the dtype of ``feats``, under autocast too. Differentiable in ``feats``, each point adding its slots in their
        order whatever the number of threads; no gradient to the coordinates.

    Raises:
        ValueError: wrong shape, dtype or device, an index that is out of range.
    """
    expect_points(query, "query")
    expect_points(points, "points")
    expect_tensor(feats, "feats", (points.shape[0], None), _FLOATING)
    expect_tensor(index, "index", (query.shape[0], None), (torch.int64,))
    expect(index.shape[1] >= 1, f"index: expected at least one slot, got {tuple(index.shape)}")
    expect_same_device(query=query, points=points, feats=feats, index=index)
    if feats.dtype not in _COMPILED:
        return group_points(query, points, feats.float(), index).to(feats.dtype)
    arguments = (query.detach(), points.detach(), feats, index)
    explain = functools.partial(_check_index, index, points.shape[0])
    kernel = library.kernel("group_points", feats.device.type)
    if kernel is None:
        explain()
        return reference.group_points(*arguments)
    return library.run(kernel, arguments, explain)


@torch.no_grad()
def _check_numbers(start: Sequence[float], voxel_size: Sequence[float], distance: int, radius: float, k: int) -> None:
    expect(len(start) == 3 and all(map(math.isfinite, start)), f"start: expected three finite numbers (x, y, z), got {list(start)}")
    expect(len(voxel_size) == 3 and min(voxel_size) > 0, f"voxel_size: expected three positive numbers (x, y, z), got {list(voxel_size)}")
    expect(0 <= distance < 2**24, f"distance: expected 0 to 2^24 cells, got {distance}")
    expect(radius > 0, f"radius: expected a positive number, got {radius}")
    expect(k >= 1, f"k: expected at least 1, got {k}")


def voxel_query(
    query: Tensor,
    coords: Tensor,
    *,
    spatial_shape: Triple,
    start: Sequence[float],
    voxel_size: Sequence[float],
    distance: int,
    k: int,
    reach: int | Sequence[int] | None = None,
    radius: float = math.inf,
    query_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The first ``k`` voxels, in row order, within a Manhattan distance of each query's cell. No gradient.

    The voxel query of Voxel R-CNN (Deng et al. 2021). The paper's neighbours are all voxels with ``|dx| + |dy| + |dz| <= distance``; it
    does not say which k of them are taken, and row order is that of the released code. The released code searches a box of cells
    instead and keeps those whose centre is near: that is ``reach=(z, y, x)``, ``distance=sum(reach)`` and ``radius``. All three limits
    hold together.

    Args:
        query: ``(Q, 3)`` float32, metres; their cells may lie outside the grid, and are those of :func:`dynamic_voxelize`. NaN finds nothing.
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted, each once, as in a ``SparseTensor``. Checked on the CPU (no device sync).
        spatial_shape: cells along (z, y, x).
        start: (x0, y0, z0) lower corner of the grid, metres.
        voxel_size: (dx, dy, dz) metres, of these voxels (times the stride of their level).
        distance: largest Manhattan distance in cells, >= 0.
        k: slots, >= 1.
        reach: largest distance in cells along each axis, an int or (z, y, x); None for ``distance``.
        radius: the centre of the voxel is strictly nearer to the query than this, metres, ``d2 < radius * radius`` in float32.
        query_offsets: ``(B + 1,)`` int64; cloud b owns queries ``query_offsets[b]:query_offsets[b + 1]`` and the voxels of batch b. None for
            one cloud.

    Returns:
        index: ``(Q, k)`` int64 rows of ``coords``, ascending, -1 where there is none.
        count: ``(Q,)`` int64 slots used, at most ``k``.

    Raises:
        ValueError: wrong shape, dtype, device, offsets or numbers; voxels outside the grid, unsorted or repeated; a grid beyond int64.
    """
    expect_points(query, "query")
    expect_tensor(coords, "coords", (None, 4), (torch.int32,))
    expect(coords.shape[0] <= MAX_INT32, f"coords: expected at most {MAX_INT32} voxels, got {coords.shape[0]}; split the batch")
    query_offsets = one_cloud(query) if query_offsets is None else query_offsets
    expect_same_device(query=query, coords=coords, query_offsets=query_offsets)
    expect_offsets(query_offsets, query.shape[0], "query_offsets")
    z, y, x = triple(spatial_shape, "spatial_shape", minimum=1)
    batch_size = query_offsets.shape[0] - 1
    expect_grid((z, y, x), max(batch_size, 1))
    _check_numbers(start, voxel_size, distance, radius, k)
    box = triple(distance if reach is None else reach, "reach", minimum=0)
    expect(max(box) < 2**24, f"reach: expected fewer than 2^24 cells, got {box}")
    corner, size = [float(v) for v in start], [float(v) for v in voxel_size]
    arguments = (query, coords, query_offsets, corner, size, [x, y, z], list(box[::-1]), distance, float(radius), k)
    explain = functools.partial(check_coords, coords, (z, y, x), batch_size)
    kernel = library.kernel("voxel_query", query.device.type)
    if kernel is None:
        explain()
        return reference.voxel_query(*arguments)
    return library.run(kernel, arguments, explain)
