"""RoI-grid pooling: the neighbourhood of a grid of points in each box, among points (PV-RCNN) or sparse voxels (Voxel R-CNN)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.ops.checks import Triple, expect, expect_offsets, expect_same_device, one_cloud
from suite3d.ops.geometry_checks import expect_boxes
from suite3d.ops.grouping import group_points, voxel_query
from suite3d.ops.neighbors import ball_query
from suite3d.ops.sparse.tensor import SparseTensor


def _grid_size(size: int | Sequence[int]) -> Triple:
    values = (size, size, size) if isinstance(size, int) else tuple(size)
    expect(
        len(values) == 3 and min(values) >= 1,
        f"grid_size: expected a positive int or three (along length, width, height), got {size!r}",
    )
    return values[0], values[1], values[2]


@torch.no_grad()
def roi_grid_points(boxes: Tensor, grid_size: int | Sequence[int]) -> Tensor:
    """The centres of the cells of a regular grid in each box (PV-RCNN, Shi et al. 2020, sec. 3.3). No gradient.

    Args:
        boxes: ``(M, 7)`` float32 (cx, cy, cz, dx, dy, dz, yaw), centre, full sizes, radians; ``(M, 9)`` with velocities is taken too.
        grid_size: cells along length, width and height; an int for all three (the paper's is 6).

    Returns:
        ``(M, G, 3)`` float32, ``G = product of grid_size``; point ``(i * ny + j) * nz + k`` is the centre of cell (i, j, k), along the
        length, width and height of the box.

    Raises:
        ValueError: wrong shape or dtype of the boxes, or a grid size that is not positive.
    """
    boxes, sizes = expect_boxes(boxes, "boxes"), _grid_size(grid_size)
    axes = [(torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n - 0.5 for n in sizes]
    along, across, up = (torch.cartesian_prod(*axes)[None] * boxes[:, None, 3:6]).unbind(dim=-1)  # [M, G] each, in the frame of the box
    cosine, sine = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    return torch.stack([along * cosine - across * sine, along * sine + across * cosine, up], dim=-1) + boxes[:, None, :3]


def _blocks(grid: Tensor, points: Tensor, feats: Tensor, index: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    grouped = group_points(grid.flatten(0, 1), points, feats, index)  # [M * G, k, 3 + C]
    return grouped.unflatten(0, grid.shape[:2]), count.unflatten(0, grid.shape[:2])


def roi_grid_pool(
    boxes: Tensor,
    points: Tensor,
    feats: Tensor,
    *,
    grid_size: int | Sequence[int],
    radius: float,
    k: int,
    box_offsets: Tensor | None = None,
    point_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The points around each grid point of each box, as input of a set-abstraction network (PV-RCNN, Shi et al. 2020, sec. 3.3).

    Pooled features are ``mlp(grouped).amax(2)``: ``(M, G, D)``. The neighbours are those of :func:`ball_query`; positions are relative to
    the grid point, in the frame of the scene, as in the released code (the paper does not turn them into the box either).

    Args:
        boxes: ``(M, 7)`` or ``(M, 9)`` float32; one with NaN has no neighbours.
        points: ``(P, 3)`` float32: the keypoints of the paper.
        feats: ``(P, C)`` floating.
        grid_size: as in :func:`roi_grid_points`.
        radius: metres.
        k: neighbours of a grid point.
        box_offsets, point_offsets: ``(B + 1,)`` int64 each, or neither for one cloud.

    Returns:
        grouped: ``(M, G, k, 3 + C)`` as :func:`group_points` gives it: unused slots repeat the first neighbour, grid points without any are
            zero. Differentiable in ``feats``.
        count: ``(M, G)`` int64 neighbours found, at most ``k``; a maximum over a row of count 0 is one over the network of zeros, which
            ``torch.where(count[..., None] > 0, pooled, 0)`` removes.

    Raises:
        ValueError: wrong shape, dtype, device, offsets or numbers.
    """
    grid = roi_grid_points(boxes, grid_size)
    if box_offsets is not None:
        expect_offsets(box_offsets, boxes.shape[0], "box_offsets")
    query_offsets = None if box_offsets is None else box_offsets * grid.shape[1]
    index, count = ball_query(grid.flatten(0, 1), points, radius, k, query_offsets=query_offsets, point_offsets=point_offsets)
    return _blocks(grid, points, feats, index, count)


def roi_grid_pool_voxels(
    boxes: Tensor,
    voxels: SparseTensor,
    *,
    start: Sequence[float],
    voxel_size: Sequence[float],
    grid_size: int | Sequence[int],
    distance: int,
    k: int,
    reach: int | Sequence[int] | None = None,
    radius: float = math.inf,
    box_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sparse voxels around each grid point of each box (voxel RoI pooling of Voxel R-CNN, Deng et al. 2021).

    As :func:`roi_grid_pool`, with the neighbours of :func:`voxel_query`: a look-up of a few lines of cells instead of a search, on the
    feature volumes of the backbone itself. Positions are those of the voxel centres.

    Args:
        boxes: ``(M, 7)`` or ``(M, 9)`` float32; one with NaN has no neighbours.
        voxels: features of one level.
        start: (x0, y0, z0) lower corner of the grid, metres.
        voxel_size: (dx, dy, dz) metres, at the level of these voxels.
        grid_size: as in :func:`roi_grid_points`.
        distance, k, reach, radius: as in :func:`voxel_query`.
        box_offsets: ``(B + 1,)`` int64 with B the batch size of ``voxels``; None for a batch of one.

    Returns:
        grouped: ``(M, G, k, 3 + C)`` and count: ``(M, G)``, as in :func:`roi_grid_pool`. Differentiable in the features.

    Raises:
        ValueError: wrong shape, dtype, device, offsets or numbers; voxels that are not sorted.
    """
    grid = roi_grid_points(boxes, grid_size)
    if box_offsets is None:
        expect(voxels.batch_size == 1, f"box_offsets: expected {voxels.batch_size + 1} entries for a batch of {voxels.batch_size}, got none")
        box_offsets = one_cloud(boxes)
    expect_same_device(boxes=boxes, box_offsets=box_offsets, voxels=voxels.coords)
    expect_offsets(box_offsets, boxes.shape[0], "box_offsets")
    clouds = box_offsets.shape[0] - 1
    expect(clouds == voxels.batch_size, f"box_offsets: expected {voxels.batch_size + 1} entries for a batch of {voxels.batch_size}, got {clouds + 1}")
    index, count = voxel_query(
        grid.flatten(0, 1),
        voxels.coords,
        spatial_shape=voxels.spatial_shape,
        start=start,
        voxel_size=voxel_size,
        distance=distance,
        k=k,
        reach=reach,
        radius=radius,
        query_offsets=box_offsets * grid.shape[1],
    )
    centres = (voxels.coords[:, [3, 2, 1]] + 0.5) * grid.new_tensor(voxel_size) + grid.new_tensor(start)  # [V, 3]
    return _blocks(grid, centres, voxels.feats, index, count)
