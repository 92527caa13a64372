"""VICReg: views agree, channels vary, channels do not repeat one another."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import check_pairs, check_samples, dots, full_precision, own_rows, total_over_ranks


class VICRegTerms(NamedTuple):
    """The weighted sum, and its three terms before weighting."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg(
    first: Tensor, second: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, gamma: float = 1.0, eps: float = 1e-4
) -> VICRegTerms:
    """``loss = invariance * s(Z, Z') + variance * (v(Z) + v(Z')) + covariance * (c(Z) + c(Z'))`` with, over the M samples of all ranks,

        s(Z, Z') = mean_i |z_i - z_i'|^2 / D
        v(Z)     = mean_d max(0, gamma - sqrt(Var_d + eps))
        c(Z)     = sum_{d != e} Cov_de^2 / D

    with unbiased variances and covariances.

    s is the mean over channels too, as in the paper's algorithm 1, which the weights belong to (equation 5 leaves the D out). The released
    code halves v: ``variance=12.5`` gives it.

    Args:
        first, second: ``(N, D)`` not scaled to unit length; row i of both comes from sample i. N may differ between ranks.
        gamma: standard deviation that every channel should reach.

    Returns:
        Scalars, at least float32; averaged over ranks they are those of the global batch.

    Raises:
        ValueError: shapes, a negative weight, fewer than two samples over all ranks.

    Source: Bardes et al., "VICReg", ICLR 2022, equations 1 to 6.
    """
    check_pairs("vicreg", first, second)
    if min(invariance, variance, covariance) < 0:
        raise ValueError(f"the weights of vicreg must not be negative, got {invariance}, {variance} and {covariance}")
    _, samples = own_rows(first)
    check_samples("vicreg", samples)
    a, b = full_precision(first), full_precision(second)
    apart = mean_over_ranks((a - b).square().mean(dim=1).sum(), len(a))
    spread_a, repeat_a = _moments(a, samples, gamma, eps)
    spread_b, repeat_b = _moments(b, samples, gamma, eps)
    spread, repeats = spread_a + spread_b, repeat_a + repeat_b
    return VICRegTerms(invariance * apart + variance * spread + covariance * repeats, apart, spread, repeats)


def _moments(z: Tensor, samples: int, gamma: float, eps: float) -> tuple[Tensor, Tensor]:
    """v and c of one view."""
    centred = z - total_over_ranks(z.sum(dim=0)) / samples
    moments = total_over_ranks(dots(centred.T, centred.T)) / (samples - 1)  # [D, D]
    diagonal = moments.diagonal()
    hinge = (gamma - (diagonal + eps).sqrt()).clamp(min=0).mean()
    return hinge, (moments.square().sum() - diagonal.square().sum()) / z.shape[1]
