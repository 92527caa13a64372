"""Contrast between points that know which region of the scene they belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks, rank
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import own_rows, unit
from suite3d.ops import scatter_mean


def point_level_region_loss(queries: Tensor, keys: Tensor, regions: Tensor, *, temperature: float) -> Tensor:
    """Points of one region attract each other across views, points of other regions and of none repel.

    Mean over queries i with a region of ``-1/|P_i| sum_{j in P_i} log( exp(q_i.k_j / t) / sum_m exp(q_i.k_m / t) )``,
    with P_i the keys of query i's region, m over all keys, and q, k scaled to unit length.

    Args:
        queries, keys: ``(N, D)`` features of the same N points in two views.
        regions: ``(N,)`` int64 region of each point, unique within this rank's batch; -1 = none (such points are negatives only).
        temperature: t > 0.

    Returns:
        Scalar float32, 0 without a point in a region; averaged over ranks it is the loss of the global batch.

    Source: Bai et al., "Point-Level Region Contrast for Object Detection Pre-Training", CVPR 2022, equation 3.
    """
    queries, own_keys, keys, regions, _, _ = _across_ranks(queries, keys, regions, temperature)
    rich = regions >= 0
    ids, member = torch.unique(regions[rich], return_inverse=True)
    attractor = scatter_mean(own_keys[rich], member, len(ids))[member]  # [R, D]; a region lives on one rank
    queries = queries[rich]
    losses = log_partition(queries, keys) - (queries * attractor).sum(1)  # [R]; the latter is the mean over P_i of q_i.k_j / t
    return mean_over_ranks(losses.sum(), len(losses))


def region_aware_point_loss(queries: Tensor, keys: Tensor, regions: Tensor, *, temperature: float) -> Tensor:
    """Every point finds itself in the other view; the other points of its own region are no negatives, and regions weigh the same.

    ``sum_i w_i L_i / sum_i w_i`` with ``L_i = -log( exp(q_i.k_i / t) / sum_{m in N_i} exp(q_i.k_m / t) )``, N_i the point itself
    and all keys outside its region, and ``w_i = 1 / (points of i's region)``, 1 for a point without one.

    Arguments and result as :func:`point_level_region_loss`.
    """
    queries, own_keys, keys, regions, all_regions, own = _across_ranks(queries, keys, regions, temperature)
    _, member, size = torch.unique(regions, return_inverse=True, return_counts=True)
    weights = torch.where(regions >= 0, 1.0 / size[member], 1.0).to(queries.dtype)  # [N]; a region lives on one rank
    losses = log_partition(queries, keys, leave_out=(regions, all_regions), own=own) - (queries * own_keys).sum(1)
    return mean_over_ranks((weights * losses).sum(), weights.sum())


def _across_ranks(queries: Tensor, keys: Tensor, regions: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Unit queries over t, own unit keys, all ranks' unit keys, own regions made unique over ranks, all ranks' regions, own rows among them."""
    if queries.shape != keys.shape or queries.ndim != 2 or regions.shape != queries.shape[:1]:
        shapes = [tuple(tensor.shape) for tensor in (queries, keys, regions)]
        raise ValueError(f"expected queries (N, D), keys (N, D) and regions (N,), got {shapes}")
    check_temperature(temperature)
    regions = torch.where(regions >= 0, regions + (rank() << 40), regions)
    queries, keys = unit(queries) / temperature, unit(keys)
    return queries, keys, gather_rows(keys), regions, gather_rows(regions), own_rows(keys)[0]
