"""Voxels along rays: what a laser beam or a line of sight passes through on its way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import expect, expect_offsets, expect_same_device, one_cloud
from suite3d.ops.geometry_checks import expect_points
from suite3d.ops.reference import rays as reference
from suite3d.ops.voxelize import expect_key_bits, grid_cells


def _fake(
    origins: Tensor, ends: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int], include_end: bool
) -> tuple[Tensor, Tensor, Tensor]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    return origins.new_empty(voxels, 4, dtype=torch.int32), offsets.new_empty(origins.shape[0] + 1), origins.new_empty(voxels, 2)


library.define(
    "traverse_voxels(Tensor origins, Tensor ends, Tensor offsets, float[] start, float[] size, int[] cells, bool include_end)"
    " -> (Tensor, Tensor, Tensor)",
    _fake,
)


@torch.no_grad()
def traverse_voxels(
    origins: Tensor,
    ends: Tensor,
    point_range: Sequence[float],
    voxel_size: Sequence[float],
    *,
    offsets: Tensor | None = None,
    include_end: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The voxels that each ray crosses, in order (Amanatides and Woo 1987, "A fast voxel traversal algorithm for ray tracing"). No gradient.

    A ray is the segment from its origin to its end, clipped to the grid. Consecutive voxels share a face: a segment through an edge or
    a corner (crossings whose float64 parameters are equal) passes the voxels beside it with a span of length 0, the x face first, then
    y, then z. Origin and end lie in the voxels that
    :func:`dynamic_voxelize` puts them into (float32, true division), and nothing accumulates along the way (float64 parameters, one
    division a crossing), so the last voxel is the one of the end point to the bit, on every device.

    The free space in front of laser returns is ``include_end=False``: every voxel before that of the return.

    Args:
        origins: ``(R, 3)`` float32, metres. A single origin: ``origin.expand(R, 3)``.
        ends: ``(R, 3)`` float32, metres.
        point_range: (x0, y0, z0, x1, y1, z1) metres, a whole number of voxels on each axis.
        voxel_size: (dx, dy, dz) metres.
        offsets: ``(B + 1,)`` int64; cloud b owns rays ``offsets[b]:offsets[b + 1]``. None for one cloud.
        include_end: keep the voxel that holds the end point (where it is in the grid).

    Returns:
        coords: ``(T, 4)`` int32 [batch, z, y, x]; a voxel that several rays cross is there for each.
        ray_offsets: ``(R + 1,)`` int64: ray r crosses rows ``ray_offsets[r]:ray_offsets[r + 1]``; none where it misses the grid, or a
            coordinate is not finite.
        spans: ``(T, 2)`` float32 in [0, 1]: where the segment enters and leaves the voxel; times its length, metres. A ray of length 0
            has the span (0, 1).

    Raises:
        ValueError: wrong shape, dtype, device, offsets or grid.
    """
    expect_points(origins, "origins")
    expect_points(ends, "ends")
    expect(origins.shape == ends.shape, f"expected as many origins as ends, got {tuple(origins.shape)} and {tuple(ends.shape)}; use .expand")
    offsets = one_cloud(origins) if offsets is None else offsets
    expect_same_device(origins=origins, ends=ends, offsets=offsets)
    expect_offsets(offsets, origins.shape[0])
    cells = grid_cells(point_range, voxel_size)
    expect_key_bits(cells, offsets.shape[0] - 1)
    start, size = [float(v) for v in point_range[:3]], [float(v) for v in voxel_size]
    kernel = library.kernel("traverse_voxels", origins.device.type)
    return (kernel or reference.traverse_voxels)(origins, ends, offsets, start, size, list(cells), include_end)
