"""Contrast with labels: all samples of a class are positives of one another."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import check_samples, dots, own_rows, unit


def supervised_contrast(features: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Mean over anchors i that have a positive of ``-1/|P_i| sum_{p in P_i} log( exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) )``.

    P_i are the other rows of i's class, a all other rows, of all ranks; z are scaled to unit length.

    Args:
        features: ``(N, D)``; with two views of a sample, both rows carry its label. N may differ between ranks.
        labels: ``(N,)`` int64; -1 = unlabelled, in no class: such a row is only a negative.
        temperature: t > 0.

    Returns:
        Scalar, at least float32, 0 where no anchor has a positive. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, a temperature that is not positive, fewer than two rows over all ranks.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (L_out).
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"supervised_contrast expected features (N, D) and labels (N,), got {tuple(features.shape)} and {tuple(labels.shape)}")
    check_temperature(temperature)
    own, count = own_rows(features)
    check_samples("supervised_contrast", count)
    z = unit(features)
    everyone, everyones_labels = gather_rows(z), gather_rows(labels)
    itself = torch.arange(count, device=own.device) == own[:, None]  # [N, M]
    positive = (labels[:, None] == everyones_labels) & (labels >= 0)[:, None] & ~itself
    logits = dots(z, everyone) / temperature  # [N, M]
    energy = logits.masked_fill(itself, -torch.inf).logsumexp(dim=1)  # [N]
    positives = positive.sum(dim=1)  # [N]
    losses = energy - (logits * positive).sum(dim=1) / positives.clamp(min=1)
    return mean_over_ranks(losses.masked_fill(positives == 0, 0).sum(), (positives > 0).sum())
