"""Positives made up in feature space: on the way from a key towards another prototype, as far as it stays what it is (HaLP)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import dots, unit


@torch.no_grad()
def spherical_kmeans(features: Tensor, count: int, *, generator: torch.Generator, steps: int = 20) -> Tensor:
    """``(count, D)`` unit prototypes: k-means by cosine, from ``count`` rows drawn at random; a prototype without members stays where it is.

    Args:
        features: ``(N, D)``, N at least ``count``; the same on every rank (a queue), as the generator's state must be.

    Raises:
        ValueError: the shape, or too few rows.
    """
    if features.ndim != 2 or not 1 <= count <= len(features):
        raise ValueError(f"spherical_kmeans expected at least {max(count, 1)} features (N, D), got {tuple(features.shape)}")
    z = unit(features)
    prototypes = z[torch.randperm(len(z), generator=generator)[:count].to(z.device)]
    for _ in range(steps):
        nearest = dots(z, prototypes).argmax(dim=1)
        sums = torch.zeros_like(prototypes).index_add_(0, nearest, z)
        moved = F.normalize(sums, dim=1)
        prototypes = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, moved, prototypes)
    return prototypes


@torch.no_grad()
def hallucinated_positives(keys: Tensor, prototypes: Tensor, *, count: int, generator: torch.Generator, reach: float = 1.0) -> Tensor:
    """``(N, count, D)`` unit vectors ``slerp(k_i, p_c, t)``, c a random prototype other than the nearest, ``t ~ U(0, reach * t_max)``.

    ``t_max`` in (0, 1] is the furthest step for which the prototype nearest to the key stays the nearest. With w the angle between k and p_c,
    ``a_m = k.(p_near - p_m)`` and ``b_m = p_c.(p_near - p_m)``, prototype m takes over at the angle ``atan2(a_m sin w, a_m cos w - b_m)``.

    Args:
        keys: ``(N, D)``. prototypes: ``(K, D)``, at least two.
        generator: on the CPU.
        reach: in (0, 1], how much of the allowed way is used.

    Raises:
        ValueError: shapes, fewer than two prototypes, a reach outside (0, 1].

    Source: Shah et al., "HaLP: Hallucinating Latent Positives for Skeleton-Based Self-Supervised Learning of Actions", CVPR 2023, section 3.3.
    """
    if keys.ndim != 2 or prototypes.ndim != 2 or keys.shape[1] != prototypes.shape[1] or len(prototypes) < 2:
        raise ValueError(
            f"hallucinated_positives expected keys (N, D), prototypes (K >= 2, D), got {tuple(keys.shape)} and {tuple(prototypes.shape)}"
        )
    if count < 1 or not 0 < reach <= 1:
        raise ValueError(f"hallucinated_positives expected count >= 1 and reach in (0, 1], got {count} and {reach}")
    k, p = unit(keys), unit(prototypes)
    rows, device = len(k), k.device
    closeness = dots(k, p)  # [N, K]
    nearest = closeness.argmax(dim=1, keepdim=True)  # [N, 1]
    drawn = torch.randint(len(p) - 1, (rows, count), generator=generator).to(device)
    chosen = drawn + (drawn >= nearest)  # [N, count] any but the nearest
    share = torch.rand(rows, count, generator=generator).to(device, k.dtype)
    angle = closeness.gather(1, chosen).clamp(-1, 1).acos()[..., None]  # [N, count, 1]
    lead = (closeness.gather(1, nearest) - closeness)[:, None]  # [N, 1, K] a
    between = dots(p, p)  # [K, K]
    end = between[chosen].gather(2, nearest[:, None].expand(-1, count, -1)) - between[chosen]  # [N, count, K] b
    limits = torch.atan2(lead * angle.sin(), lead * angle.cos() - end)  # [N, count, K]
    itself = F.one_hot(nearest, len(p)).bool()  # [N, 1, K]
    limit = torch.minimum(limits.masked_fill(itself, torch.inf).amin(dim=2, keepdim=True), angle)  # [N, count, 1]
    turn = share[..., None] * reach * limit
    towards = p[chosen] - angle.cos() * k[:, None]  # orthogonal to the key
    return F.normalize(turn.cos() * k[:, None] + turn.sin() * F.normalize(towards, dim=2), dim=2)


def hallucinated_positive_loss(queries: Tensor, positives: Tensor, *, temperature: float) -> Tensor:
    """``-mean_i mean_s q_i.h_is / t`` over each query's positives ``(N, S, D)``, to be added to InfoNCE with a weight of 1 to 2.

    Queries are scaled to unit length; no gradient reaches the positives. Averaged over ranks it is the mean over all ranks' queries.

    Source: Shah et al., CVPR 2023, equation 4.
    """
    if queries.ndim != 2 or positives.ndim != 3 or positives.shape[::2] != queries.shape or not positives.shape[1]:
        raise ValueError(
            f"hallucinated_positive_loss expected queries (N, D), positives (N, S, D), got {tuple(queries.shape)}, {tuple(positives.shape)}"
        )
    check_temperature(temperature)
    scores = dots(unit(queries)[:, None], unit(positives.detach()))[:, 0]  # [N, S]
    return mean_over_ranks(-scores.mean(dim=1).sum() / temperature, len(queries))
