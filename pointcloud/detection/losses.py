"""The losses of the two detection heads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss with a balancing weight, per element (Lin et al., ICCV 2017, eq. 5).

    FL = -alpha_t (1 - p_t)^gamma log p_t with p_t the probability given to the true outcome.

    Args:
        logits: any shape.
        targets: same shape, 0 or 1.
    """
    signed = torch.where(targets > 0, logits, -logits)  # p_t = sigmoid(signed)
    weight = torch.where(targets > 0, alpha, 1 - alpha)
    return -weight * torch.sigmoid(-signed).pow(gamma) * functional.logsigmoid(signed)


def gaussian_focal_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Penalty-reduced focal loss on centre heat maps (Law & Deng, CornerNet, eq. 1; CenterPoint uses alpha 2, beta 4).

    L = -1/N sum { (1 - p)^2 log p           where heatmap = 1
                 { (1 - y)^4 p^2 log(1 - p)  elsewhere;  N = number of ones, at least 1.

    Computed from the logits, so nothing is clamped and saturated cells still have a gradient.

    Args:
        logits: any shape.
        heatmap: same shape, y in [0, 1].

    Returns:
        scalar.
    """
    center = heatmap == 1
    positive = torch.sigmoid(-logits).square() * functional.logsigmoid(logits)
    negative = (1 - heatmap).pow(4) * torch.sigmoid(logits).square() * functional.logsigmoid(-logits)
    return -torch.where(center, positive, negative).sum() / center.sum().clamp(min=1)
