"""Plain torch nearest neighbours in both directions: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.ops.reference.neighbors import pair_blocks, squared_distances


def _nearest(query: Tensor, points: Tensor, query_offsets: Tensor, point_offsets: Tensor) -> Tensor:
    index = torch.full((len(query),), -1, dtype=torch.int64, device=query.device)
    for begin, end, points_begin, points_end in pair_blocks(query_offsets, point_offsets):
        distances = squared_distances(query[begin:end], points[points_begin:points_end])
        distances = torch.where(distances < torch.inf, distances, torch.inf)
        least = distances.amin(dim=1, keepdim=True)
        rows = torch.arange(points_begin, points_end, device=query.device)
        first = torch.where(distances == least, rows, points_end).amin(dim=1)  # ties: lowest row
        index[begin:end] = torch.where(least[:, 0] < torch.inf, first, -1)
    return index


def chamfer(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(d2_ab, d2_ba, index_ab, index_ba)``; the distances carry gradients to both clouds.

    A point without a finite distance to the other cloud gets index -1 and an infinite distance (no gradient).
    """
    with torch.no_grad():
        index_ab, index_ba = _nearest(a, b, a_offsets, b_offsets), _nearest(b, a, b_offsets, a_offsets)
    return _distance(a, b, index_ab), _distance(b, a, index_ba), index_ab, index_ba


def _distance(query: Tensor, points: Tensor, index: Tensor) -> Tensor:
    found = index >= 0
    rows = found.nonzero().squeeze(1)
    dx, dy, dz = (query[rows] - points[index[rows]]).unbind(dim=1)
    return query.new_full((len(query),), torch.inf).index_put((rows,), dx * dx + dy * dy + dz * dz)
