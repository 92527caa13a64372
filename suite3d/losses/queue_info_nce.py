"""InfoNCE with the negatives in a queue (MoCo)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature, similarities


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
    queries, keys, negatives = (F.normalize(x.float(), dim=1) for x in (queries, keys, negatives.detach()))
    positive = (queries * keys).sum(dim=1, keepdim=True) / temperature  # [N, 1]
    logits = torch.cat((positive, similarities(queries, negatives, temperature)), dim=1)  # [N, 1 + K]
    own = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    return mean_over_ranks(F.cross_entropy(logits, own, reduction="sum"), len(queries))
