"""Contrast in several projection heads at once, with a learned temperature for each pair and head (AMCL)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.rows import check_samples, dots, own_rows, unit
from suite3d.nn.pair_temperature import PairTemperature


def adaptive_contrast(first: Tensor, second: Tensor, temperature: PairTemperature, *, regularisation: float = 0.01) -> Tensor:
    """Sum over heads of the mean over all 2M views i of

        -( s_i' / tau_i' - b Omega(tau_i') ) + log sum_j exp( s_ij / tau_ij - b Omega(tau_ij) ),   Omega(tau) = D/2 log tau + 1/tau

    with s cosines and tau :class:`PairTemperature` of the pair, ' the positive, j the views of other samples of all ranks.
    ``-log`` of a von Mises-Fisher-like posterior ``tau^(-D/2) exp((s - 1) / tau)`` is ``Omega(tau) - s / tau``, so b = 1 is the likelihood
    ratio itself; a small b leaves the temperatures freer. (The released code replaces the log-sum by a mean over the 100 hardest negatives.)

    Args:
        first, second: ``(N, H, D)`` features of H projection heads in two views. N may differ between ranks.
        temperature: shared by the heads; takes unit features.
        regularisation: b >= 0.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, a negative weight, fewer than two samples over all ranks.

    Source: Wang et al., "Adaptive Multi-head Contrastive Learning", ECCV 2024, section 4 (equation 2 with the SimCLR loss).
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"adaptive_contrast expected two views of one shape (N, H, D), got {tuple(first.shape)} and {tuple(second.shape)}")
    if regularisation < 0:
        raise ValueError(f"regularisation must not be negative, got {regularisation}")
    own, samples = own_rows(first)
    check_samples("adaptive_contrast", samples)
    views = unit(torch.stack((first, second)))  # [2, N, H, D]
    z, z_phi = _by_head(views), _by_head(temperature.embed(views))  # [H, 2N, D]
    everyone = gather_rows(views.transpose(0, 1)).transpose(0, 1)  # [2, M, H, D]
    others = _by_head(everyone)  # [H, 2M, D]
    taus = temperature(dots(z_phi, _by_head(temperature.embed(everyone))))  # [H, 2N, 2M]
    scores = dots(z, others) / taus - regularisation * (views.shape[3] / 2 * taus.log() + 1 / taus)
    place = torch.arange(samples, device=own.device).repeat(2)
    negative = own.repeat(2)[:, None] != place  # [2N, 2M]
    repulsion = scores.masked_fill(~negative, -torch.inf).logsumexp(dim=2)  # [H, 2N]
    partner = torch.cat((own + samples, own))  # [2N] the other view of the same sample
    positive = scores.gather(2, partner[None, :, None].expand(len(scores), -1, 1))[..., 0]  # [H, 2N]
    return mean_over_ranks((repulsion - positive).sum(), 2 * len(first))


def _by_head(views: Tensor) -> Tensor:
    return views.permute(2, 0, 1, 3).flatten(1, 2)  # [H, 2N, D]
