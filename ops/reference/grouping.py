"""Plain torch grouping of neighbours, and the search among sorted voxels: the definitions the compiled kernels are held to."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from suite3d.ops.reference.kernel_map import find_rows, voxel_keys


def filled(index: Tensor) -> Tensor:
    """``(Q, k)`` index whose unused slots repeat the first; -1 where that one is unused too."""
    return torch.where(index < 0, index[:, :1], index)


def group_points(query: Tensor, points: Tensor, feats: Tensor, index: Tensor) -> Tensor:
    """``(Q, k, 3 + C)``: coordinates relative to the query, then features; zeros for a query without neighbours. Differentiable in ``feats``."""
    rows = filled(index)
    if points.shape[0] == 0:
        return feats.new_zeros(*index.shape, 3 + feats.shape[1]) + feats.sum()  # zeros that stay in the autograd graph
    found, rows = (rows >= 0).unsqueeze(-1), rows.clamp(min=0)
    relative = (points[rows] - query[:, None]).to(feats.dtype)  # [Q, k, 3]
    return torch.where(found, torch.cat([relative, feats[rows]], dim=-1), 0.0)


def group_points_backward(grad: Tensor, index: Tensor, points: int) -> Tensor:
    """``(points, C)``: the sum of the gradients of all slots that hold a point."""
    rows = filled(index).flatten()
    padded = grad.new_zeros(points + 1, grad.shape[2] - 3)  # the last row takes what belongs to no point
    return padded.index_add(0, torch.where(rows < 0, points, rows), grad[..., 3:].flatten(0, 1))[:points]


def voxel_query(
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
    """``index (Q, k)`` and ``count (Q,)`` int64: try each cell in reach, in row order of the voxels."""
    queries, shape = query.shape[0], (cells[2], cells[1], cells[0])
    index, count = offsets.new_full((queries, k), -1), offsets.new_zeros(queries)
    batch = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=query.device), offsets.diff(), output_size=queries)
    place = (query - query.new_tensor(start)) / query.new_tensor(size)
    limit = query.new_tensor([c + r for c, r in zip(cells, reach, strict=True)])
    near = ((place >= -query.new_tensor(reach) - 1) & (place < limit)).all(dim=1)  # false for NaN
    cell = torch.where(near[:, None], place, 0.0).floor().long().flip(1)  # [Q, (z, y, x)]
    centres = (coords[:, [3, 2, 1]] + 0.5) * query.new_tensor(size) + query.new_tensor(start)
    keys, radius2 = voxel_keys(coords, shape), query.new_tensor(radius) * query.new_tensor(radius)
    for step in itertools.product(*(range(-r, r + 1) for r in reversed(reach))):
        if sum(map(abs, step)) > distance or len(coords) == 0:
            continue
        there = cell + cell.new_tensor(step)
        valid = near & ((there >= 0) & (there < cell.new_tensor(shape))).all(dim=1)
        row = find_rows(keys, voxel_keys(torch.cat([batch[:, None], torch.where(valid[:, None], there, 0)], dim=1), shape))
        gap = query - centres[row.clamp(min=0)]
        d2 = gap[:, 0] * gap[:, 0] + gap[:, 1] * gap[:, 1] + gap[:, 2] * gap[:, 2]
        took = (valid & (row >= 0) & (d2 < radius2) & (count < k)).nonzero().squeeze(1)
        index[took, count[took]] = row[took]
        count[took] += 1
    return index, count
