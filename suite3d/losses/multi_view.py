"""Contrast of any number of views (crops, sensors, moments) in one term per sample, instead of a sum over pairs of views."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import check_samples, dots, own_rows, unit


def mv_info_nce(views: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE of V views at once. Mean over samples i of

        -log( sum_{l != m} exp(u_il.u_im / t) / sum_l sum_{(j, m) != (i, l)} exp(u_il.u_jm / t) )

    with u_il the unit feature of sample i in view l, and j over the samples of all ranks.

    Args:
        views: ``(V, N, D)``, at least two views; N may differ between ranks.
        temperature: t > 0.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: fewer than two views, or fewer than two samples over all ranks.

    Source: Koromilas et al., "A Principled Framework for Multi-View Contrastive Learning", 2025, section IV (MV-InfoNCE).
    """
    own, everyone, agreement = _prepare("mv_info_nce", views, temperature)
    count, rows = views.shape[:2]
    anchors = unit(views).flatten(0, 1) / temperature  # [V N, D]; dividing here spares a matrix
    views_of_all = everyone.flatten(0, 1)  # [V M, D]
    samples = everyone.shape[1]
    itself = torch.arange(count, device=own.device)[:, None] * samples + own  # [V, N]
    partition = log_partition(anchors, views_of_all, leave_out=(itself.flatten(), torch.arange(len(views_of_all), device=own.device)))
    energy = partition.unflatten(0, (count, rows)).logsumexp(dim=0)  # [N]
    return mean_over_ranks((energy - agreement.flatten(0, 1).logsumexp(dim=0)).sum(), rows)


def mv_dhel(views: Tensor, *, temperature: float) -> Tensor:
    """Alignment over all pairs of views, uniformity within each view on its own. Mean over samples i of

        -log( sum_{l < m} exp(u_il.u_im / t) / prod_l sum_{j != i} exp(u_il.u_jl / t) )

    Views are never pushed apart from other views' samples, so that views of different sensors need not share one distribution.

    Args, result and errors as :func:`mv_info_nce`.

    Source: Koromilas et al., 2025, section IV (MV-DHEL); for two views DHEL, Koromilas et al., ICML 2024.
    """
    own, everyone, agreement = _prepare("mv_dhel", views, temperature)
    left_out = (own, torch.arange(everyone.shape[1], device=own.device))
    uniformity = sum(log_partition(z, others, leave_out=left_out) for z, others in zip(unit(views) / temperature, everyone))  # [N]
    pairs = torch.triu_indices(len(views), len(views), offset=1, device=own.device)
    alignment = agreement[pairs[0], pairs[1]].logsumexp(dim=0)  # [N]
    return mean_over_ranks((uniformity - alignment).sum(), views.shape[1])


def _prepare(name: str, views: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Own rows (N,), unit features of all ranks (V, M, D), and (V, V, N) ``u_il.u_im / t`` with -inf where l = m."""
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"{name} expected views (V, N, D) with V of at least 2, got {tuple(views.shape)}")
    check_temperature(temperature)
    own, samples = own_rows(views[0])
    check_samples(name, samples)
    z = unit(views).transpose(0, 1)  # [N, V, D]
    agreement = dots(z, z).permute(1, 2, 0) / temperature  # [V, V, N]
    same = torch.eye(len(views), dtype=torch.bool, device=views.device)[:, :, None]
    return own, gather_rows(z).transpose(0, 1), agreement.masked_fill(same, -torch.inf)
