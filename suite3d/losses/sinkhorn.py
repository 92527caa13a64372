"""Balanced assignment of samples to prototypes, and the swapped prediction that is trained with it."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks, sum_over_ranks, world_size
from suite3d.losses.info_nce import check_temperature


@torch.no_grad()
def sinkhorn(scores: Tensor, *, eps: float = 0.05, sweeps: int = 10) -> Tensor:
    """Soft assignment ``Q = diag(v) exp(s / eps) diag(u)`` of the samples of all ranks to K prototypes, each used equally often.

    A sweep scales every prototype's column to the sum M / K, then every sample's row to the sum 1, with M samples over all ranks. Only the
    K column sums travel between ranks, and only the two scaling vectors change: the kernel is computed once and never rewritten.

    Args:
        scores: ``(N, K)`` similarities; N may differ between ranks.
        eps: temperature > 0; smaller gives harder assignments. For float32 the scores may span about 80 eps.
        sweeps: at least 1.

    Returns:
        ``(N, K)`` float32, rows summing to 1, without a gradient.

    Source: Cuturi, "Sinkhorn Distances", NeurIPS 2013, algorithm 1; for prototypes Caron et al., "SwAV", NeurIPS 2020, section 3.1.
    """
    if scores.ndim != 2:
        raise ValueError(f"sinkhorn expected scores (samples, prototypes), got {tuple(scores.shape)}")
    check_temperature(eps)
    if sweeps < 1:
        raise ValueError(f"sinkhorn expected at least one sweep, got {sweeps}")
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.detach().float()
        kernel = ((scores - _largest(scores)) / eps).exp_()  # [N, K]
        samples = sum_over_ranks(torch.tensor(float(len(scores)), device=scores.device))
        tiny = torch.finfo(torch.float32).tiny
        row = torch.ones(len(scores), device=scores.device)
        for _ in range(sweeps):
            column = samples / scores.shape[1] / sum_over_ranks(kernel.T @ row).clamp(min=tiny)  # [K]
            row = 1 / (kernel @ column).clamp(min=tiny)  # [N]
        return kernel.mul_(column).mul_(row[:, None])


def swapped_prediction(
    first: Tensor, second: Tensor, *, temperature: float = 0.1, eps: float = 0.05, sweeps: int = 10
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Each branch predicts the prototype that the other one was assigned to.

        L = mean_n CE(s1_n / t, q2_n) + mean_n CE(s2_n / t, q1_n),    q = argmax of :func:`sinkhorn` of the same scores

    Args:
        first, second: ``(N, K)`` scores of the same N samples in the two branches.
        temperature: t > 0.
        eps, sweeps: see :func:`sinkhorn`.

    Returns:
        The loss, scalar float32 (averaged over ranks it is that of the global batch), and the assignments q1, q2, each ``(N,)`` int64.

    Source: Salehi et al., "SIGMA: Sinkhorn-Guided Masked Video Modeling", ECCV 2024, section 3.2 (hard targets as in its code).
    """
    if first.shape != second.shape:
        raise ValueError(f"swapped_prediction expected scores of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    check_temperature(temperature)
    q1, q2 = (sinkhorn(scores, eps=eps, sweeps=sweeps).argmax(dim=1) for scores in (first, second))
    total = F.cross_entropy(first.float() / temperature, q2, reduction="sum") + F.cross_entropy(second.float() / temperature, q1, reduction="sum")
    return mean_over_ranks(total, len(first)), (q1, q2)


def usage(assigned: Tensor, prototypes: int) -> Tensor:
    """Perplexity of the prototypes' shares over the number of prototypes: 1 = all used equally, 1 / K = a single one."""
    count = torch.zeros(prototypes, device=assigned.device).scatter_add_(0, assigned, torch.ones(len(assigned), device=assigned.device))
    share = count / max(len(assigned), 1)
    return torch.special.entr(share).sum().exp() / prototypes


def _largest(scores: Tensor) -> Tensor:
    """Largest score over all ranks: one shift for all, since a shift of single rows would change where the sweeps start."""
    largest = scores.amax() if scores.numel() else scores.new_tensor(-torch.inf)
    if world_size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest
