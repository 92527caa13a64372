"""Places that are the same spot of the scene in two crops: contrast between them, and consistency after propagation (PixPro)."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import dots, full_precision, unit


@torch.no_grad()
def near_places(first: Tensor, second: Tensor, scale: Tensor, *, threshold: float = 0.7) -> Tensor:
    """``(B, N, M)`` bool: places whose centres in the scene are at most ``threshold * scale`` apart.

    Args:
        first, second: ``(B, N, d)``, ``(B, M, d)`` centres of the cells of two feature maps in the coordinates of the uncropped image (or
            cloud, or volume), as the crop boxes and flips put them.
        scale: ``(B,)`` diagonal of a cell, the larger of the two crops'.

    Source: Xie et al., "Propagate Yourself" (PixPro), CVPR 2021, equation 1.
    """
    if first.ndim != 3 or second.ndim != 3 or first.shape[::2] != second.shape[::2] or scale.shape != first.shape[:1]:
        shapes = [tuple(x.shape) for x in (first, second, scale)]
        raise ValueError(f"near_places expected centres (B, N, d), (B, M, d) and a scale (B,), got {shapes}")
    return torch.cdist(full_precision(first), full_precision(second), compute_mode="donot_use_mm_for_euclid_dist") <= threshold * scale[:, None, None]


def pixel_contrast(first: Tensor, second: Tensor, near: Tensor, *, temperature: float = 0.3) -> Tensor:
    """Mean over samples of the mean over places i that have a near one of
    ``-log( sum_{j near i} exp(x_i.x'_j / t) / sum_j exp(x_i.x'_j / t) )``, in both directions, averaged.

    Args:
        first, second: ``(B, N, D)``, ``(B, M, D)`` features of two crops; scaled to unit length here. j runs over the same sample's places.
        near: ``(B, N, M)`` bool from :func:`near_places`. Samples whose crops do not meet are left out.
        temperature: t > 0.

    Returns:
        Scalar, at least float32, 0 where no crops meet. Averaged over ranks it is the loss of the global batch.

    Source: Xie et al., CVPR 2021, equation 2.
    """
    _check("pixel_contrast", first, second, near)
    check_temperature(temperature)
    logits = dots(unit(first), unit(second)) / temperature  # [B, N, M]
    total = _one_way(logits, near) + _one_way(logits.transpose(1, 2), near.transpose(1, 2))
    return mean_over_ranks(total.sum() / 2, near.flatten(1).any(dim=1).sum())


def pixel_contrast_to(queries: Tensor, keys: Tensor, near: Tensor, *, temperature: float = 0.3) -> Tensor:
    """One direction of :func:`pixel_contrast`: each query place finds the near key places among all of the sample's key places.

    With a momentum encoder the queries of each crop meet the keys of the other, and the two directions are averaged. No gradient reaches
    the keys. Arguments, result and source as :func:`pixel_contrast`.
    """
    _check("pixel_contrast_to", queries, keys, near)
    check_temperature(temperature)
    losses = _one_way(dots(unit(queries), unit(keys.detach())) / temperature, near)
    return mean_over_ranks(losses.sum(), near.flatten(1).any(dim=1).sum())


def _one_way(logits: Tensor, near: Tensor) -> Tensor:
    """``(B,)`` mean loss of a sample's places that have a near one."""
    met = near.any(dim=2)  # [B, N]
    # Where nothing is near, everything counts as near: the loss there is 0 and its gradient finite.
    own = logits.masked_fill(~near & met[:, :, None], -torch.inf).logsumexp(dim=2)
    losses = (logits.logsumexp(dim=2) - own) * met
    return losses.sum(dim=1) / met.sum(dim=1).clamp(min=1)


def propagate(features: Tensor, transformed: Tensor, *, sharpness: float = 2.0) -> Tensor:
    """``(B, N, D)`` ``y_i = sum_j max(cos(x_i, x_j), 0)^sharpness g_j``: each place takes over what similar places say.

    Args:
        features: ``(B, N, C)`` x. transformed: ``(B, N, D)`` g, x after a learned (linear) map.
        sharpness: > 0.

    Source: Xie et al., CVPR 2021, equations 3 and 4 (pixel propagation module).
    """
    if features.ndim != 3 or features.shape[:2] != transformed.shape[:2] or not sharpness > 0:
        raise ValueError(
            f"propagate expected (B, N, C), (B, N, D), sharpness > 0, got {tuple(features.shape)}, {tuple(transformed.shape)}, {sharpness}"
        )
    z = unit(features)
    similarity = dots(z, z).clamp(min=0).pow(sharpness)  # [B, N, N]
    return dots(similarity, full_precision(transformed).transpose(1, 2))


def pixel_propagation(propagated: Tensor, target: Tensor, near: Tensor) -> Tensor:
    """Mean over samples whose crops meet of ``-mean_{(i, j) near} cos(y_i, x'_j)``; call it for both directions and add (PixPro's loss).

    Args:
        propagated: ``(B, N, D)`` y of one crop, from :func:`propagate`. target: ``(B, M, D)`` the momentum encoder's features of the other
            crop; no gradient reaches them.
        near: ``(B, N, M)`` bool.

    Returns:
        Scalar in [-1, 1], at least float32, 0 where no crops meet. Averaged over ranks it is the loss of the global batch.

    Source: Xie et al., CVPR 2021, equation 5.
    """
    _check("pixel_propagation", propagated, target, near)
    cosines = dots(unit(propagated), unit(target.detach())) * near  # [B, N, M]
    pairs = near.sum(dim=(1, 2))
    return mean_over_ranks(-(cosines.sum(dim=(1, 2)) / pairs.clamp(min=1)).sum(), (pairs > 0).sum())


def _check(name: str, first: Tensor, second: Tensor, near: Tensor) -> None:
    fits = first.ndim == 3 and second.ndim == 3 and first.shape[::2] == second.shape[::2]
    if not fits or near.shape != (*first.shape[:2], second.shape[1]) or near.dtype != torch.bool:
        shapes = [tuple(x.shape) for x in (first, second, near)]
        raise ValueError(f"{name} expected features (B, N, D), (B, M, D) and a bool mask (B, N, M), got {shapes} {near.dtype}")
