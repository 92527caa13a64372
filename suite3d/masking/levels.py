"""One mask on all levels of a hierarchy: the coarsest level decides, finer levels inherit, so no level sees what another hides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.masking.boxes import check_sides


def refined_mask(hidden: Tensor, grid: Sequence[int], factor: Sequence[int]) -> Tensor:
    """``(B, N)`` mask of a coarse grid -> ``(B, N * prod(factor))`` of the grid that is ``factor`` times finer along each axis.

    Args:
        hidden: bool, ``N = prod(grid)``. grid: sides of the coarse grid. factor: one per axis, at least 1.

    Raises:
        ValueError: sides that do not fit.

    Source: Gao et al., "MCMAE", NeurIPS 2022, section 3.1 (block-wise masking); Tian et al., "SparK", ICLR 2023, section 3.1.
    """
    check_sides("refined_mask", grid)
    if len(factor) != len(grid) or any(times < 1 for times in factor):
        raise ValueError(f"refined_mask expected one factor of at least 1 for each of {len(grid)} axes, got {tuple(factor)}")
    side_count = int(torch.tensor(list(grid)).prod())
    if hidden.ndim != 2 or hidden.shape[1] != side_count:
        raise ValueError(f"refined_mask expected a mask (B, {side_count}), got {tuple(hidden.shape)}")
    fine = hidden.unflatten(1, tuple(grid))
    for axis, times in enumerate(factor):
        fine = fine.repeat_interleave(times, dim=1 + axis)
    return fine.flatten(1)


def inherited_mask(hidden: Tensor, coarse: Tensor, fine: Tensor, stride: Sequence[int]) -> Tensor:
    """``(F,)`` bool: each fine voxel is hidden if the coarse voxel that holds it is.

    Args:
        hidden: ``(C,)`` bool of the coarse voxels.
        coarse: ``(C, 1 + D)`` integer [batch, cell ...], no two alike. fine: ``(F, 1 + D)`` likewise.
        stride: D fine cells per coarse cell and axis.

    Raises:
        ValueError: shapes, or a fine voxel without a coarse one.

    Source: Zhang et al., "Point-M2AE", NeurIPS 2022, section 3.2 (multi-scale masking), on voxels.
    """
    if coarse.ndim != 2 or fine.ndim != 2 or coarse.shape[1] != fine.shape[1] or len(stride) != fine.shape[1] - 1 or hidden.shape != coarse.shape[:1]:
        shapes = [tuple(x.shape) for x in (hidden, coarse, fine)]
        raise ValueError(f"inherited_mask expected hidden (C,), coarse (C, 1 + D), fine (F, 1 + D) and D strides, got {shapes} and {tuple(stride)}")
    if any(times < 1 for times in stride):
        raise ValueError(f"inherited_mask expected strides of at least 1, got {tuple(stride)}")
    parents = fine.long() // torch.tensor([1, *stride], device=fine.device)
    _, member = torch.cat((coarse.long(), parents)).unique(dim=0, return_inverse=True)
    own, asked = member.split((len(coarse), len(fine)))
    row = torch.full((int(member.max()) + 1 if len(member) else 0,), -1, device=fine.device)
    row[own] = torch.arange(len(coarse), device=fine.device)
    found = row[asked]
    if bool((found < 0).any()):
        raise ValueError(f"inherited_mask expected a coarse voxel for every fine one, got {int((found < 0).sum())} without")
    return hidden[found]


def members_mask(hidden: Tensor, members: Tensor, count: int) -> Tensor:
    """``(count,)`` bool: a point is visible if any visible group holds it; points in no group are hidden.

    Args:
        hidden: ``(C,)`` bool of the groups. members: ``(C, K)`` int64 points of each group; a point may be in several.
        count: number of points.

    Source: Zhang et al., "Point-M2AE", NeurIPS 2022, section 3.2 (back-projecting visible positions).
    """
    if members.ndim != 2 or hidden.shape != members.shape[:1]:
        raise ValueError(f"members_mask expected hidden (C,) and members (C, K), got {tuple(hidden.shape)} and {tuple(members.shape)}")
    mask = torch.ones(count, dtype=torch.bool, device=hidden.device)
    mask[members[~hidden].flatten()] = False
    return mask
