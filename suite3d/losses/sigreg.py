"""SIGReg: features become an isotropic Gaussian, tested along random directions (LeJEPA); nothing else is needed against collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import check_samples, dots, full_precision, own_rows, total_over_ranks


def sigreg(features: Tensor, *, generator: torch.Generator, slices: int = 1024, knots: int = 17, limit: float = 5.0) -> Tensor:
    """Mean over random unit directions a of the Epps-Pulley statistic of the projections x_i = a.z_i against the standard normal,

        M * integral_{-limit}^{limit} |mean_i exp(j s x_i) - exp(-s^2 / 2)|^2 exp(-s^2 / 2) ds,

    by the trapezoid rule at ``knots`` evenly spaced points, with i over the M rows of all ranks. It is bounded, its gradients too, and it
    costs time and memory linear in M, D and the number of slices.

    Args:
        features: ``(N, D)`` not scaled; N may differ between ranks.
        generator: on the CPU, of the directions; must be in the same state on every rank (seeded by the step).

    Returns:
        Scalar, at least float32, the same on every rank.

    Raises:
        ValueError: the shape, fewer than two rows over all ranks, no slice, fewer than two knots.

    Source: Balestriero & LeCun, "LeJEPA", 2025, section 4 (sketched isotropic Gaussian regularisation, algorithm 1).
    """
    if features.ndim != 2:
        raise ValueError(f"sigreg expected features (N, D), got {tuple(features.shape)}")
    if slices < 1 or knots < 2 or limit <= 0:
        raise ValueError(f"sigreg expected at least one slice, two knots and a positive limit, got {slices}, {knots} and {limit}")
    _, count = own_rows(features)
    check_samples("sigreg", count)
    z = full_precision(features)
    directions = F.normalize(torch.randn(slices, z.shape[1], generator=generator, dtype=z.dtype), dim=1).to(z.device)
    knot, share = _half_trapezoid(knots, limit)
    knot, share = knot.to(z), share.to(z)
    normal = (-knot.square() / 2).exp()  # [T] characteristic function of the standard normal, and the weight
    phase = dots(z, directions)[:, :, None] * knot  # [N, S, T]
    parts = total_over_ranks(torch.stack((phase.cos().sum(dim=0), phase.sin().sum(dim=0)))) / count  # [2, S, T]
    error = (parts[0] - normal).square() + parts[1].square()  # [S, T]
    return count * (error * (normal * share)).sum(dim=1).mean()


def _half_trapezoid(knots: int, limit: float) -> tuple[Tensor, Tensor]:
    """The knots in [0, limit] and their shares of the trapezoid rule over [-limit, limit]: the integrand is even, so half of them do."""
    knot = torch.linspace(-limit, limit, knots, dtype=torch.float64)
    share = torch.full((knots,), 2 * limit / (knots - 1), dtype=torch.float64)
    share[0] = share[-1] = limit / (knots - 1)
    if knots % 2:
        share[knots // 2] /= 2  # 0 has no twin
    return knot[knots // 2 :], 2 * share[knots // 2 :]


def lejepa(
    views: Tensor, *, generator: torch.Generator, global_views: int = 2, weight: float = 0.05, slices: int = 1024
) -> tuple[Tensor, Tensor, Tensor]:
    """``(1 - weight) * P + weight * R``: all views predict the mean of the global ones, and each view's features are Gaussian.

        P = mean over views v and samples i of |mean_g z_gi - z_vi|^2 / D,    R = mean over views of :func:`sigreg`

    No stop-gradient, no teacher, no predictor.

    Args:
        views: ``(V, N, D)``, the global views first. N may differ between ranks.
        generator: see :func:`sigreg`.
        weight: in [0, 1].

    Returns:
        The loss, P and R; averaged over ranks those of the global batch.

    Source: Balestriero & LeCun, "LeJEPA", 2025, section 5 (algorithm 2).
    """
    if views.ndim != 3 or not 1 <= global_views <= len(views):
        raise ValueError(f"lejepa expected views (V, N, D) with at least {global_views} views, got {tuple(views.shape)}")
    if not 0 <= weight <= 1:
        raise ValueError(f"lejepa expected a weight in [0, 1], got {weight}")
    z = full_precision(views)
    centre = z[:global_views].mean(dim=0)  # [N, D]
    prediction = mean_over_ranks((centre - z).square().mean(dim=(0, 2)).sum(), z.shape[1])
    gaussian = torch.stack([sigreg(view, generator=generator, slices=slices) for view in z]).mean()
    return (1 - weight) * prediction + weight * gaussian, prediction, gaussian
