"""Points to voxels, dynamic (every point kept) and hard (a fixed number of points and voxels)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.ops import library, reference
from suite3d.ops.checks import MAX_INT32, expect_offsets, expect_same_device, expect_tensor


def grid_cells(point_range: Sequence[float], voxel_size: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along (x, y, z) of the box ``(x0, y0, z0, x1, y1, z1)``.

    Raises:
        ValueError: wrong lengths, an empty box, sizes that are not positive, or a box that is not a whole number of voxels.
    """
    if len(point_range) != 6:
        raise ValueError(f"point_range: expected 6 numbers (x0, y0, z0, x1, y1, z1), got {list(point_range)}")
    if len(voxel_size) != 3 or min(voxel_size) <= 0:
        raise ValueError(f"voxel_size: expected 3 positive numbers, got {list(voxel_size)}")
    cells = []
    for axis, name in enumerate("xyz"):
        exact = (point_range[axis + 3] - point_range[axis]) / voxel_size[axis]
        whole = round(exact)
        if whole < 1 or abs(exact - whole) > 1e-3:  # no message otherwise: torch.compile may take the numbers for unknown
            raise ValueError(f"point_range along {name}: expected a positive whole number of voxels of {voxel_size[axis]:g} m, got {exact:g}")
        if whole > 2**24:
            raise ValueError(f"point_range along {name}: expected at most 2^24 voxels (float32 tells no more apart), got {whole}")
        cells.append(whole)
    return cells[0], cells[1], cells[2]


def expect_key_bits(cells: tuple[int, int, int], scans: int) -> None:
    """Check that the numbers of all voxels of a batch, a bit field for each axis and the scan, have at most 61 bits."""
    bits = sum((count - 1).bit_length() for count in (*cells, scans))
    if bits > 61:
        raise ValueError(
            f"{scans} scans of {cells} voxels (x, y, z): expected keys of at most 61 bits, got {bits}; use larger voxels, a smaller range or batch"
        )


def _check(cells: tuple[int, int, int], xyz: Tensor, offsets: Tensor, feats: Tensor | None = None) -> None:
    expect_tensor(xyz, "xyz", (None, 3), (torch.float32,))
    expect_same_device(xyz=xyz, offsets=offsets)
    points = xyz.shape[0]
    expect_offsets(offsets, points)
    expect_key_bits(cells, offsets.shape[0] - 1)
    if points > MAX_INT32:
        raise ValueError(f"xyz: expected at most {MAX_INT32} points, got {points}; split the batch")
    if feats is not None:
        expect_tensor(feats, "feats", (points, None), (torch.float32,))
        expect_same_device(xyz=xyz, feats=feats)


def _run(name: str, cells: tuple[int, int, int], tensors: tuple[Tensor, ...], *arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``name`` on (xyz, offsets) or (xyz, feats, offsets); the CPU kernel checks them itself, :func:`_check` says what it refused."""
    xyz, offsets, feats = tensors[0], tensors[-1], tensors[1] if len(tensors) == 3 else None
    check = functools.partial(_check, cells, xyz, offsets, feats)
    kernel = library.kernel(name, xyz.device.type)
    if kernel is not None and not torch.compiler.is_compiling() and all(tensor.is_cpu for tensor in tensors):
        return library.run(kernel, (*tensors, *arguments), check)
    check()
    return (kernel or getattr(reference, name))(*tensors, *arguments)


def _fake_dynamic(xyz: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    voxels, points = context.new_dynamic_size(), context.new_dynamic_size()
    return xyz.new_empty(voxels, 4, dtype=torch.int32), offsets.new_empty(points), offsets.new_empty(points)


def _fake_hard(
    xyz: Tensor, feats: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int], max_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    return xyz.new_empty(voxels, 4, dtype=torch.int32), xyz.new_empty(voxels, max_points, 3 + feats.shape[1]), offsets.new_empty(voxels)


library.define("dynamic_voxelize(Tensor xyz, Tensor offsets, float[] start, float[] size, int[] cells) -> (Tensor, Tensor, Tensor)", _fake_dynamic)
library.define(
    "hard_voxelize(Tensor xyz, Tensor feats, Tensor offsets, float[] start, float[] size, int[] cells, int max_points, int max_voxels)"
    " -> (Tensor, Tensor, Tensor)",
    _fake_hard,
)


@torch.no_grad()
def dynamic_voxelize(xyz: Tensor, offsets: Tensor, point_range: Sequence[float], voxel_size: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Group the points of a batch by voxel; every point in range is kept. No gradient.

    The voxel of a point is ``floor((p - start) / size)`` per axis, in float32 with a true division. A point whose voxel is
    outside the grid, or that has a NaN coordinate, is out of range and appears nowhere in the result.

    Args:
        xyz: ``(N, 3)`` float32, metres.
        offsets: ``(B + 1,)`` int64; scan b owns rows ``offsets[b]:offsets[b + 1]``.
        point_range: (x0, y0, z0, x1, y1, z1) metres, a whole number of voxels on each axis.
        voxel_size: (dx, dy, dz) metres.

    Returns:
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted lexicographically, each once.
        point_voxel: ``(P,)`` int64 row of ``coords`` of each point in range, non-decreasing.
        order: ``(P,)`` int64 row of ``xyz`` of each of them: grouped by voxel, original order inside a voxel.

    Raises:
        ValueError: wrong shape, dtype, device, offsets or grid; more voxels than keys of 61 bits can hold.
    """
    cells = grid_cells(point_range, voxel_size)
    start, size = [float(v) for v in point_range[:3]], [float(v) for v in voxel_size]
    return _run("dynamic_voxelize", cells, (xyz, offsets), start, size, list(cells))


@torch.no_grad()
def hard_voxelize(
    xyz: Tensor,
    feats: Tensor,
    offsets: Tensor,
    point_range: Sequence[float],
    voxel_size: Sequence[float],
    *,
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels with a fixed number of point slots (VoxelNet, SECOND). No gradient.

    In each scan the first ``max_voxels`` voxels to receive a point are kept, and in each voxel its first ``max_points`` points
    (the rule of spconv's point-to-voxel); the rows come out sorted all the same.

    Args:
        xyz: ``(N, 3)`` float32, metres.
        feats: ``(N, C)`` float32 channels that go with the points; C may be 0.
        offsets: ``(B + 1,)`` int64.
        point_range, voxel_size: as in :func:`dynamic_voxelize`.
        max_points: slots a voxel, >= 1.
        max_voxels: voxels a scan, >= 1.

    Returns:
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted.
        voxels: ``(V, max_points, 3 + C)`` float32, xyz then feats, unused slots zero.
        counts: ``(V,)`` int64 used slots.
    """
    cells = grid_cells(point_range, voxel_size)
    if max_points < 1 or max_voxels < 1:
        raise ValueError(f"max_points and max_voxels: expected at least 1, got {max_points} and {max_voxels}")
    start, size = [float(v) for v in point_range[:3]], [float(v) for v in voxel_size]
    return _run("hard_voxelize", cells, (xyz, feats, offsets), start, size, list(cells), max_points, max_voxels)
