"""Plain torch neighbour searches: the definition the compiled kernels are held to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 22


def squared_distances(query: Tensor, points: Tensor) -> Tensor:
    """``(Q, P)`` of ``dx*dx + dy*dy + dz*dz``, each operation rounded once; NaN where a coordinate is."""
    dx, dy, dz = (query[:, None, axis] - points[None, :, axis] for axis in range(3))
    return dx * dx + dy * dy + dz * dz


def pair_blocks(query_offsets: Tensor, point_offsets: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """Blocks (query begin, query end, point begin, point end) of limited size that cover every cloud with queries and points."""
    query_ends, point_ends = query_offsets.tolist(), point_offsets.tolist()
    for cloud in range(len(query_ends) - 1):
        points_begin, points_end = point_ends[cloud], point_ends[cloud + 1]
        if points_begin == points_end:
            continue
        rows = max(1, PAIRS_AT_ONCE // (points_end - points_begin))
        for begin in range(query_ends[cloud], query_ends[cloud + 1], rows):
            yield begin, min(begin + rows, query_ends[cloud + 1]), points_begin, points_end


def knn(query: Tensor, points: Tensor, k: int, query_offsets: Tensor, point_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """``index (Q, k)`` int64 and ``distance2 (Q, k)``, by distance then row; a distance that is not finite is no neighbour."""
    index = torch.full((len(query), k), -1, dtype=torch.int64, device=query.device)
    distance2 = query.new_full((len(query), k), torch.inf)
    for begin, end, points_begin, points_end in pair_blocks(query_offsets, point_offsets):
        distances = squared_distances(query[begin:end], points[points_begin:points_end])
        distances = torch.where(distances < torch.inf, distances, torch.inf)  # NaN too
        ordered, columns = distances.sort(dim=1, stable=True)
        ordered, columns = ordered[:, :k], columns[:, :k]
        distance2[begin:end, : ordered.shape[1]] = ordered
        index[begin:end, : ordered.shape[1]] = torch.where(ordered < torch.inf, columns + points_begin, -1)
    return index, distance2


def ball_query(query: Tensor, points: Tensor, radius: float, k: int, query_offsets: Tensor, point_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """``index (Q, k)`` int64 and ``count (Q,)`` int64: the first ``k`` rows with a squared distance below ``radius * radius`` (float32)."""
    index = torch.full((len(query), k), -1, dtype=torch.int64, device=query.device)
    limit = query.new_tensor(radius) * query.new_tensor(radius)
    for begin, end, points_begin, points_end in pair_blocks(query_offsets, point_offsets):
        inside = squared_distances(query[begin:end], points[points_begin:points_end]) < limit
        rows = torch.arange(points_begin, points_end, device=query.device)
        first = torch.where(inside, rows, points_end).topk(min(k, points_end - points_begin), dim=1, largest=False, sorted=True).values
        index[begin:end, : first.shape[1]] = torch.where(first < points_end, first, -1)
    return index, (index >= 0).sum(dim=1)
