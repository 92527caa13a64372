"""Retrieval: for each query of the test set, is there a sample of its class among the k nearest of the training set?

The protocol of UCF101 and HMDB51 retrieval (Buchler et al., ECCV 2018; RSPNet): mean feature of a sample, cosine similarity, test queries,
training gallery, a hit counts once however many of the k are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RANKS = (1, 5, 10, 20, 50)


def retrieval_recall(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor, *, ranks: Sequence[int] = RANKS
) -> dict[str, float]:
    """``{"R@1": percent, ...}``.

    Args:
        gallery: ``(N, C)`` features of the training set. gallery_labels: ``(N,)``.
        queries: ``(M, C)`` features of the test set. query_labels: ``(M,)``.
        ranks: the k; those beyond the gallery's size are left out, as every class would be a hit.

    Raises:
        ValueError: nothing to search or to search for, or features of different widths.
    """
    if not len(gallery) or not len(queries) or gallery.ndim != 2 or gallery.shape[1:] != queries.shape[1:]:
        raise ValueError(f"expected gallery (N, C) and queries (M, C) with N, M > 0, got {tuple(gallery.shape)} and {tuple(queries.shape)}")
    ranks = [k for k in ranks if k <= len(gallery)]
    keys = F.normalize(gallery.float(), dim=1)
    hits = torch.zeros(len(ranks), dtype=torch.double, device=gallery.device)
    for rows, labels in zip(F.normalize(queries.float(), dim=1).split(1024), query_labels.split(1024)):
        nearest = (rows @ keys.T).topk(max(ranks), dim=1).indices  # [m, k]
        same = gallery_labels[nearest] == labels[:, None]
        hits += torch.stack([same[:, :k].any(1).double().sum() for k in ranks])
    return {f"R@{k}": 100 * float(hit) / len(queries) for k, hit in zip(ranks, hits, strict=True)}
