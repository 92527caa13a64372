"""Occupied or empty: binary cross-entropy over cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks


def occupancy_sum(logits: Tensor, occupied: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """``-sum_i [ w y_i log s(l_i) + (1 - y_i) log(1 - s(l_i)) ]`` with s the sigmoid and w the weight of occupied cells.

    Args:
        logits: any shape.
        occupied: same shape, bool.
    """
    if logits.shape != occupied.shape or occupied.dtype != torch.bool:
        raise ValueError(f"occupancy losses expected a bool per logit {tuple(logits.shape)}, got {occupied.dtype} {tuple(occupied.shape)}")
    weight = torch.where(occupied, positive_weight, 1.0)
    return F.binary_cross_entropy_with_logits(logits.float(), occupied.float(), weight=weight, reduction="sum")


def occupancy_loss(logits: Tensor, occupied: Tensor, *, balanced: bool = False) -> Tensor:
    """Binary cross-entropy, mean over cells.

    Args:
        logits: any shape.
        occupied: same shape, bool.
        balanced: half the mean over the occupied cells plus half the mean over the empty ones, instead of the mean over all.

    Returns:
        Scalar float32; averaged over ranks it is the loss of all ranks' cells.
    """
    if not balanced:
        return mean_over_ranks(occupancy_sum(logits, occupied), logits.numel())
    positive = mean_over_ranks(occupancy_sum(logits[occupied], occupied[occupied]), occupied.sum())
    negative = mean_over_ranks(occupancy_sum(logits[~occupied], occupied[~occupied]), (~occupied).sum())
    return (positive + negative) / 2
