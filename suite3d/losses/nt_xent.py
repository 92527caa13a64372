"""NT-Xent: two views of a sample find one another among the views of all other samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks, rank
from suite3d.losses.info_nce import check_temperature, similarities


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Mean over all 2M views z_i of ``-log( exp(z_i.z_i' / t) / sum_{k != i} exp(z_i.z_k / t) )``, z_i' the other view of the same sample.

    k runs over both views of all samples of all ranks; z are scaled to unit length.

    Args:
        first, second: ``(N, D)``; row i of both comes from sample i. N may differ between ranks.
        temperature: t > 0.

    Returns:
        Scalar float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes that differ, a temperature that is not positive, fewer than two samples over all ranks (no negative).

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, equation 1.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"nt_xent expected two views of one shape (N, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    check_temperature(temperature)
    counts = gather_rows(torch.tensor([len(first)], device=first.device))
    if int(counts.sum()) < 2:
        raise ValueError(f"nt_xent expected at least two samples, since the others are the negatives, got {int(counts.sum())}")
    first, second = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    all_first, all_second = gather_rows(first), gather_rows(second)  # [M, D]
    own = torch.arange(len(first), device=first.device) + int(counts[: rank()].sum())
    total = _sum_over_anchors(first, all_second, all_first, own, temperature) + _sum_over_anchors(second, all_first, all_second, own, temperature)
    return mean_over_ranks(total, 2 * len(first))


def _sum_over_anchors(anchors: Tensor, others: Tensor, same: Tensor, own: Tensor, temperature: float) -> Tensor:
    """``others``: the other view of all samples, with the positive at ``own``; ``same``: the anchors' view of all samples, ``own`` left out."""
    beside = similarities(anchors, same, temperature).scatter(1, own[:, None], -torch.inf)  # [N, M]
    logits = torch.cat((similarities(anchors, others, temperature), beside), dim=1)  # [N, 2M]
    return F.cross_entropy(logits, own, reduction="sum")
