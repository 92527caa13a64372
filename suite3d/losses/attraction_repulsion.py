"""Doubly contrastive: far positives are pulled harder, near negatives pushed harder (CACR)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.rows import check_samples, dots, einsum, own_rows, unit


def attraction_repulsion(anchors: Tensor, positives: Tensor, *, attraction: float = 1.0, repulsion: float = 2.0) -> Tensor:
    """Mean over anchors i of ``sum_k p_ik d(z_i, z_ik) - sum_j n_ij d(z_i, z_j)``, d the squared distance of unit vectors, where

        p_ik ~ exp(t+ d(z_i, z_ik))  over the K positives of sample i,
        n_ij ~ exp(-t- d(z_i, z_j))  over the positives' features z_j of all other samples of all ranks,

    each normalised to sum 1. The gradient passes through the weights too. With one positive the first term is the plain distance.

    Args:
        anchors: ``(N, D)``. positives: ``(N, K, D)`` other views of the same samples. N may differ between ranks, K may not.
        attraction: t+ >= 0. repulsion: t- >= 0.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, a negative sharpness, fewer than two samples over all ranks.

    Source: Zheng et al., "Contrastive Attraction and Contrastive Repulsion for Representation Learning", TMLR 2023, equations 5 to 7.
    """
    if positives.ndim != 3 or positives.shape[::2] != anchors.shape or positives.shape[1] < 1:
        raise ValueError(
            f"attraction_repulsion expected anchors (N, D) and positives (N, K, D), got {tuple(anchors.shape)}, {tuple(positives.shape)}"
        )
    if attraction < 0 or repulsion < 0:
        raise ValueError(f"attraction and repulsion must not be negative, got {attraction} and {repulsion}")
    own, samples = own_rows(anchors)
    check_samples("attraction_repulsion", samples)
    z, keys = unit(anchors), unit(positives)
    near = 2 - 2 * einsum("nd,nkd->nk", z, keys)  # [N, K]
    far = 2 - 2 * dots(z, gather_rows(keys).flatten(0, 1)).unflatten(1, (samples, -1))  # [N, M, K]
    pull = ((attraction * near).softmax(dim=1) * near).sum(dim=1)  # [N]
    itself = (torch.arange(samples, device=own.device) == own[:, None])[:, :, None]  # [N, M, 1]
    share = (-repulsion * far).masked_fill(itself, -torch.inf).flatten(1).softmax(dim=1)
    push = (share * far.flatten(1)).sum(dim=1)  # [N]
    return mean_over_ranks((pull - push).sum(), len(z))
