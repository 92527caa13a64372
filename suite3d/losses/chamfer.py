"""Chamfer distance between predicted and true point sets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.ops import scatter_sum


def chamfer_loss(predicted: Tensor, target: Tensor, target_offsets: Tensor, *, norm: Literal["l2", "l1"] = "l2") -> Tensor:
    """Mean over sets s of the symmetric Chamfer distance between K predicted and a varying number of true points.

    l2: ``mean_k min_j |p_k - t_j|^2 + mean_j min_k |p_k - t_j|^2``; l1: half of the same with distances instead of squares.

    Args:
        predicted: ``(S, K, 3)``.
        target: ``(M, 3)``, set s owns rows ``target_offsets[s]:target_offsets[s + 1]``; no set may be empty.
        target_offsets: ``(S + 1,)`` int64.

    Returns:
        Scalar float32, 0 for no sets; averaged over ranks it is the mean over all ranks' sets.

    Raises:
        ValueError: shapes that do not fit, or an empty set.
    """
    sets, points = predicted.shape[0], predicted.shape[1]
    if predicted.ndim != 3 or predicted.shape[2] != 3 or points < 1:
        raise ValueError(f"chamfer_loss expected predictions (S, K, 3) with K >= 1, got {tuple(predicted.shape)}")
    if target_offsets.shape != (sets + 1,):
        raise ValueError(f"chamfer_loss expected {sets + 1} offsets for {sets} sets, got {tuple(target_offsets.shape)}")
    if sets == 0:
        return mean_over_ranks(predicted.float().sum(), 0)
    sizes = target_offsets.diff()
    if bool((sizes < 1).any()):
        raise ValueError(f"chamfer_loss expected no empty target set, got {int((sizes < 1).sum())} of {sets}")
    predicted, target = predicted.float(), target.float()
    row = torch.repeat_interleave(torch.arange(sets, device=target.device), sizes, output_size=len(target))  # [M] set of each point
    to_target, to_predicted = _nearest(predicted.detach(), target.detach(), row)
    forth = (predicted - target[to_target]).square().sum(2)  # [S, K]
    back = (predicted[row, to_predicted] - target).square().sum(1)  # [M]
    if norm == "l1":
        forth, back = _root(forth) / 2, _root(back) / 2
    backward_mean = scatter_sum(back[:, None], row, sets)[:, 0] / sizes  # [S]
    return mean_over_ranks((forth.mean(1) + backward_mean).sum(), sets)


@torch.no_grad()
def _nearest(predicted: Tensor, target: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """``(S, K)`` row of the true point nearest to each prediction, ``(M,)`` number of the prediction nearest to each true point.

    Only the M x K pairs within a set are compared, all at once: there are thousands of sets of a few points.
    """
    distance = (predicted[row] - target[:, None]).square().sum(2)  # [M, K]
    owner = row[:, None].expand_as(distance)
    least = distance.new_full(predicted.shape[:2], torch.inf).scatter_reduce(0, owner, distance, "amin")  # [S, K]
    points = torch.arange(len(target), device=row.device)[:, None]
    candidates = torch.where(distance == least[row], points, len(target))  # [M, K]
    first = row.new_full(predicted.shape[:2], len(target)).scatter_reduce(0, owner, candidates, "amin")
    return first.clamp(max=len(target) - 1), distance.argmin(1)


def _root(squared: Tensor) -> Tensor:
    """Square root with gradient 0 where two points coincide."""
    return torch.where(squared > 0, squared.clamp(min=1e-20).sqrt(), 0.0)
