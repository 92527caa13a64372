"""Plain torch voxelisation: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_voxelize(xyz: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Group points by voxel.

    Args:
        xyz: ``(N, 3)`` float32.
        offsets: ``(B + 1,)`` int64.
        start, size, cells: per axis (x, y, z): lower corner, voxel size, number of voxels.

    Returns:
        ``coords (V, 4)`` int32 [batch, z, y, x] sorted; ``point_voxel (P,)`` int64; ``order (P,)`` int64.
    """
    scans = torch.arange(len(offsets) - 1, device=xyz.device)
    batch = torch.repeat_interleave(scans, offsets.diff(), output_size=len(xyz))
    cell = ((xyz - xyz.new_tensor(start)) / xyz.new_tensor(size)).floor()
    count = xyz.new_tensor(cells)
    rows = ((cell >= 0) & (cell < count)).all(dim=1).nonzero().squeeze(1)  # NaN compares false: out of range
    x, y, z = cell[rows].long().unbind(dim=1)
    key = ((batch[rows] * cells[2] + z) * cells[1] + y) * cells[0] + x
    key, by_voxel = key.sort(stable=True)
    voxel_key, point_voxel = torch.unique_consecutive(key, return_inverse=True)
    coords = torch.stack(
        [
            voxel_key // (cells[0] * cells[1] * cells[2]),
            voxel_key // (cells[0] * cells[1]) % cells[2],
            voxel_key // cells[0] % cells[1],
            voxel_key % cells[0],
        ],
        dim=1,
    )
    return coords.int(), point_voxel, rows[by_voxel]


def hard_voxelize(
    xyz: Tensor, feats: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int], max_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``max_points`` points of each of the first ``max_voxels`` voxels touched in each scan.

    Returns:
        ``coords (V, 4)`` int32 sorted; ``voxels (V, max_points, 3 + C)`` zero-padded; ``counts (V,)`` int64.
    """
    coords, point_voxel, order = dynamic_voxelize(xyz, offsets, start, size, cells)
    counts = torch.bincount(point_voxel, minlength=len(coords))
    first_row = counts.cumsum(0) - counts  # row in `order` of the first point of each voxel
    touched = order[first_row].argsort()  # voxels by first touch; rows of a scan are contiguous, so are its voxels here
    per_scan = torch.bincount(coords[:, 0], minlength=len(offsets) - 1)
    scan_start = per_scan.cumsum(0) - per_scan
    rank = torch.empty_like(touched)
    rank[touched] = torch.arange(len(touched), device=xyz.device)
    keep = rank - scan_start[coords[:, 0].long()] < max_voxels
    slot = torch.arange(len(order), device=xyz.device) - first_row[point_voxel]
    points = keep[point_voxel] & (slot < max_points)
    row = keep.cumsum(0) - 1
    values = torch.cat([xyz, feats.to(xyz.dtype)], dim=1)
    voxels = values.new_zeros(int(keep.sum()), max_points, values.shape[1])
    voxels[row[point_voxel[points]], slot[points]] = values[order[points]]
    return coords[keep], voxels, counts[keep].clamp(max=max_points)
