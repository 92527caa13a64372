"""InfoNCE with the negatives in a queue (MoCo)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import unit


def queue_info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Mean over queries i of ``-log( exp(q_i.k_i / t) / (exp(q_i.k_i / t) + sum_j exp(q_i.n_j / t)) )``, all scaled to unit length.

    Args:
        queries, keys: ``(N, D)``; row i of both is the positive pair. N may differ between ranks.
        negatives: ``(K, D)`` keys of earlier batches; no gradient reaches them.
        temperature: t > 0.

    Returns:
        Scalar float32; averaged over ranks it is the mean over all ranks' queries.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning" (MoCo), CVPR 2020, equation 1.
    """
    if queries.shape != keys.shape or queries.ndim != 2 or negatives.shape[1:] != queries.shape[1:]:
        shapes = [tuple(x.shape) for x in (queries, keys, negatives)]
        raise ValueError(f"queue_info_nce expected queries (N, D), keys (N, D) and negatives (K, D), got {shapes}")
    check_temperature(temperature)
    queries, keys, negatives = unit(queries) / temperature, unit(keys), unit(negatives.detach())
    positive = (queries * keys).sum(dim=1)  # [N]
    losses = torch.logaddexp(positive, log_partition(queries, negatives)) - positive
    return mean_over_ranks(losses.sum(), len(queries))
