"""Contrast for regression: mixtures of features as hard positives and hard negatives, ordered by their targets (SupReMix)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import check_samples, dots, own_rows, unit


def sup_re_mix(features: Tensor, targets: Tensor, shares: Tensor, *, temperature: float = 0.3, window: float) -> Tensor:
    """Mean over anchors i with a positive of ``-1/|P_i| sum_{p in P_i} log( exp(z_i.v_p / t) / sum_{a in A_i} w_ia exp(z_i.v_a / t) )``.

    P_i: the other rows of equal target, and the mixtures ``a z_j + (1 - a) z_k`` of all pairs with ``y_j < y_i < y_k``, both within
    ``window`` of y_i, where a makes the mixed target exactly y_i. A_i: P_i, all rows of other targets, and for each such row k the mixture
    ``c z_i + (1 - c) z_k`` with the target mixed alike, c = ``shares[i, k]``. ``w_ia = 1 + |y_i - y_a|`` pushes far targets harder.

    Mixtures are not scaled to unit length and carry no gradient (as in the released code); the cosines they need are sums of those of the
    rows, so they are never built. Memory grows with N M^2, with M rows over all ranks.

    Args:
        features: ``(N, D)``; with two views of a sample, both rows carry its target. N may differ between ranks.
        targets: ``(N,)`` float.
        shares: ``(N, M)`` in [0, 1], from :func:`anchor_shares`.
        temperature: t > 0. window: in units of the target, > 0.

    Returns:
        Scalar, at least float32, 0 where no anchor has a positive. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, parameters that are not positive, fewer than two rows over all ranks.

    Source: Wu et al., "Mixup Your Own Pairs" (SupReMix), 2023, section 3 (Mix-neg, Mix-pos, distance magnifying).
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(f"sup_re_mix expected features (N, D) and targets (N,), got {tuple(features.shape)} and {tuple(targets.shape)}")
    check_temperature(temperature)
    if not window > 0:
        raise ValueError(f"sup_re_mix expected window > 0, got {window}")
    own, count = own_rows(features)
    check_samples("sup_re_mix", count)
    if shares.shape != (len(features), count):
        raise ValueError(f"sup_re_mix expected shares of shape {(len(features), count)}, got {tuple(shares.shape)}")
    z = unit(features)
    everyone = gather_rows(z)
    y, all_y = targets.to(z.dtype)[:, None], gather_rows(targets).to(z.dtype)  # [N, 1], [M]
    real = dots(z, everyone)  # [N, M]
    fixed = dots(z, everyone.detach())  # [N, M] what mixtures see: no gradient into the mixed rows
    itself = torch.arange(count, device=own.device) == own[:, None]
    same, gap = (all_y == y) & ~itself, (all_y - y).abs()  # [N, M]
    hard = shares * fixed.gather(1, own[:, None]) + (1 - shares) * fixed  # [N, M] mix-neg
    hard_gap = (1 - shares) * gap
    soft, between = _positive_mixtures(fixed, y, all_y, window)  # [N, M, M] mix-pos
    logits = torch.cat((real, hard, soft.flatten(1)), dim=1) / temperature
    inside = torch.cat((~itself, all_y != y, between.flatten(1)), dim=1)
    weights = torch.cat((1 + gap, 1 + hard_gap, torch.ones_like(soft).flatten(1)), dim=1)
    energy = (logits + weights.log()).masked_fill(~inside, -torch.inf).logsumexp(dim=1)  # [N]
    positive = torch.cat((same, torch.zeros_like(same), between.flatten(1)), dim=1)
    positives = positive.sum(dim=1)
    losses = energy - logits.masked_fill(~positive, 0).sum(dim=1) / positives.clamp(min=1)
    return mean_over_ranks(losses.masked_fill(positives == 0, 0).sum(), (positives > 0).sum())


def anchor_shares(rows: int, count: int, *, generator: torch.Generator, alpha: int = 2, beta: int = 8) -> Tensor:
    """``(rows, count)`` float32 draws of Beta(alpha, beta), the anchor's share in each of its hard negatives.

    For whole parameters Beta(a, b) is the a-th smallest of a + b - 1 uniform numbers.
    """
    if alpha < 1 or beta < 1:
        raise ValueError(f"anchor_shares expected alpha and beta of at least 1, got {alpha} and {beta}")
    return torch.rand(rows, count, alpha + beta - 1, generator=generator).kthvalue(alpha, dim=2).values


def _positive_mixtures(fixed: Tensor, y: Tensor, all_y: Tensor, window: float) -> tuple[Tensor, Tensor]:
    """``(N, M, M)`` cosines of each anchor with the mixtures of (j, k) that have its target, and which of them exist."""
    below = (all_y < y) & (y - all_y < window)
    above = (all_y > y) & (all_y - y < window)
    between = below[:, :, None] & above[:, None, :]
    span = (all_y - all_y[:, None]).clamp(min=torch.finfo(all_y.dtype).tiny)  # [M, M] y_k - y_j
    share = ((all_y - y)[:, None, :] / span).masked_fill(~between, 0)  # of j
    return share * fixed[:, :, None] + (1 - share) * fixed[:, None, :], between
