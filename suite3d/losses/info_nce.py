"""InfoNCE: each query must find its own key among all keys."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks, sum_over_ranks
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import unit


def info_nce(queries: Tensor, keys: Tensor, *, temperature: float, symmetric: bool = False, global_negatives: bool = True) -> Tensor:
    """Mean over queries i of ``-log( exp(q_i.k_i / t) / sum_j exp(q_i.k_j / t) )``, with q, k scaled to unit length.

    Args:
        queries, keys: ``(N, D)``; row i of both is the positive pair. N may differ between ranks.
        temperature: t > 0.
        symmetric: average with the same loss from keys to queries (CLIP, SimCLR across views).
        global_negatives: j runs over the keys of all ranks; otherwise over this rank's only.

    Returns:
        Scalar float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive, fewer than two pairs (no negative).

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4.
    """
    if queries.shape != keys.shape or queries.ndim != 2:
        raise ValueError(f"info_nce expected queries and keys of one shape (N, D), got {tuple(queries.shape)} and {tuple(keys.shape)}")
    check_temperature(temperature)
    pairs = int(sum_over_ranks(torch.tensor(len(queries), device=queries.device))) if global_negatives else len(queries)
    if pairs < 2:
        raise ValueError(f"info_nce expected at least two pairs, since the others are the negatives, got {pairs}")
    queries, keys = unit(queries), unit(keys)
    loss = _one_direction(queries, keys, temperature, global_negatives)
    if symmetric:
        loss = (loss + _one_direction(keys, queries, temperature, global_negatives)) / 2
    return loss


def _one_direction(queries: Tensor, keys: Tensor, temperature: float, global_negatives: bool) -> Tensor:
    queries = queries / temperature
    positive = (queries * keys).sum(dim=1)
    loss = (log_partition(queries, gather_rows(keys) if global_negatives else keys) - positive).sum()
    return mean_over_ranks(loss, len(queries))


def check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
