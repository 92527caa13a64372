"""KoLeo: no feature may sit on top of its nearest neighbour."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.rows import check_samples, dots, own_rows, unit


def koleo(features: Tensor, *, eps: float = 1e-8) -> Tensor:
    """``-mean_i log( min_{j != i} |z_i - z_j| + eps )`` over the unit features of all ranks (Kozachenko-Leonenko entropy).

    Args:
        features: ``(N, D)``; N may differ between ranks.
        eps: keeps the logarithm finite where two features coincide.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: the shape, fewer than two rows over all ranks.

    Source: Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019, equation 2; used by DINOv2 (which looks for the
    neighbour on the own rank only).
    """
    if features.ndim != 2:
        raise ValueError(f"koleo expected features (N, D), got {tuple(features.shape)}")
    own, count = own_rows(features)
    check_samples("koleo", count)
    z = unit(features)
    everyone = gather_rows(z)  # [M, D]
    with torch.no_grad():
        itself = torch.arange(count, device=own.device) == own[:, None]
        nearest = dots(z, everyone).masked_fill(itself, -torch.inf).argmax(dim=1)  # [N]
    distance = torch.linalg.vector_norm(z - everyone[nearest], dim=1)
    return -mean_over_ranks((distance + eps).log().sum(), len(z))
