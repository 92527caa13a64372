"""Barlow Twins: channels of two views are correlated with themselves and with nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.rows import check_pairs, check_samples, dots, full_precision, own_rows, total_over_ranks


def barlow_twins(first: Tensor, second: Tensor, *, redundancy: float = 0.0051, eps: float = 1e-5) -> Tensor:
    """``sum_c (1 - C_cc)^2 + redundancy * sum_{c != d} C_cd^2``, C the correlation of channel c of one view with channel d of the other.

    ``C = mean_i a_i b_i^T`` over the samples of all ranks, with each channel of a and b centred and divided by ``sqrt(variance + eps)``.

    Args:
        first, second: ``(N, D)``; row i of both comes from sample i. N may differ between ranks.
        redundancy: weight of the off-diagonal, >= 0.
        eps: keeps a constant channel finite (batch norm's, as in the paper's algorithm).

    Returns:
        Scalar, at least float32, the same on every rank.

    Raises:
        ValueError: shapes, a negative weight, fewer than two samples over all ranks.

    Source: Zbontar et al., "Barlow Twins", ICML 2021, equations 1 and 2.
    """
    check_pairs("barlow_twins", first, second)
    if redundancy < 0:
        raise ValueError(f"redundancy must not be negative, got {redundancy}")
    _, samples = own_rows(first)
    check_samples("barlow_twins", samples)
    a, b = (_standardised(full_precision(x), samples, eps) for x in (first, second))
    correlation = total_over_ranks(dots(a.T, b.T)) / samples  # [D, D]
    diagonal = correlation.diagonal()
    everything = correlation.square().sum()
    return (1 - diagonal).square().sum() + redundancy * (everything - diagonal.square().sum())


def _standardised(x: Tensor, samples: int, eps: float) -> Tensor:
    centred = x - total_over_ranks(x.sum(dim=0)) / samples
    variance = total_over_ranks(centred.square().sum(dim=0)) / samples
    return centred * torch.rsqrt(variance + eps)
