"""Smooth L1 (Huber) regression."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks


def smooth_l1_loss(predicted: Tensor, target: Tensor, *, beta: float = 1.0) -> Tensor:
    """Mean over all elements of ``d^2 / (2 beta)`` where ``d = |p - t| < beta``, else ``d - beta / 2``.

    Args:
        predicted, target: same shape.
        beta: where the square meets the line, > 0.

    Returns:
        Scalar float32, 0 for no elements; averaged over ranks it is the mean over all ranks' elements.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"smooth_l1_loss expected one shape, got {tuple(predicted.shape)} and {tuple(target.shape)}")
    if not beta > 0:
        raise ValueError(f"smooth_l1_loss expected beta > 0, got {beta}")
    total = F.smooth_l1_loss(predicted.float(), target.float(), beta=beta, reduction="sum")
    return mean_over_ranks(total, predicted.numel())
