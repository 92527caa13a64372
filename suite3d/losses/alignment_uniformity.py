"""Alignment of positive pairs and uniformity on the sphere, as losses (the diagnostics of the same name measure them)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.rows import check_pairs, check_samples, dots, own_rows, total_over_ranks, unit


def alignment_loss(first: Tensor, second: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean over pairs of ``|z_i - z_i'|^power`` of unit features ``(N, D)``; averaged over ranks the mean over all ranks' pairs.

    Source: Wang & Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity", ICML 2020, equation 2.
    """
    check_pairs("alignment_loss", first, second)
    if not power > 0:
        raise ValueError(f"alignment_loss expected power > 0, got {power}")
    squared = (unit(first) - unit(second)).square().sum(dim=1)
    # The root of 0 has no gradient; a power of 2 never takes one.
    distance = squared if power == 2 else squared.clamp(min=torch.finfo(squared.dtype).eps).pow(power / 2)
    return mean_over_ranks(distance.sum(), len(first))


def uniformity_loss(features: Tensor, *, t: float = 2.0) -> Tensor:
    """``log mean_{i != j} exp(-t |z_i - z_j|^2)`` over all pairs of unit features ``(N, D)`` of all ranks, the same on every rank.

    0 is collapsed, lower is more uniform. Of a batch with two views, add the mean of both views' values.

    Source: Wang & Isola, ICML 2020, equation 3.
    """
    if features.ndim != 2 or not t > 0:
        raise ValueError(f"uniformity_loss expected features (N, D) and t > 0, got {tuple(features.shape)} and {t}")
    own, count = own_rows(features)
    check_samples("uniformity_loss", count)
    z = unit(features)
    itself = torch.arange(count, device=own.device) == own[:, None]
    potential = (2 * t * (dots(z, gather_rows(z)) - 1)).exp().masked_fill(itself, 0).sum()
    return (total_over_ranks(potential) / (count * (count - 1))).log()
