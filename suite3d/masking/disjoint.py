"""Several masked views of one sample that share the work: what one predicts, no other does (DMJD)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.masking.boxes import check_sides
from suite3d.masking.streams import Generators, hidden_count


def disjoint_block_masks(
    grid: Sequence[int], ratio: float, generators: Generators, *, views: int = 2, block: Sequence[int] = (1, 2, 2), device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Hidden and predicted tokens of each view, ``(views, B, N)`` bool twice, in whole blocks.

    Each view hides :func:`hidden_count` of the blocks. The predicted tokens are a part of the view's hidden ones, and no token is predicted in
    two views. While ``views * ratio <= 1`` everything hidden is predicted, so the hidden sets are disjoint too; beyond that the views' predicted
    sets share all blocks evenly, and each view hides others on top at random, so every token of the sample is predicted exactly once per step.

    Args:
        grid: sides of the token grid, any number of axes.
        ratio: share of blocks hidden in each view, in (0, 1); DMJD has 0.6.
        generators: B of them.
        views: at least 1; DMJD has 2.
        block: sides of a block in tokens, one per axis, dividing the grid's.

    Raises:
        ValueError: sides that do not divide, no view, the ratio.

    Source: Ma et al., "Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling" (DMJD), TMM 2023, section III-B.
    """
    check_sides("disjoint_block_masks", grid)
    if len(block) != len(grid) or any(side < 1 or have % side for side, have in zip(block, grid, strict=True)) or views < 1:
        raise ValueError(f"disjoint_block_masks expected at least one view and a block that divides {tuple(grid)}, got {views} and {tuple(block)}")
    coarse = [have // side for have, side in zip(grid, block, strict=True)]
    blocks = math.prod(coarse)
    hide = hidden_count(blocks, ratio)
    predict = hide if views * hide <= blocks else None
    hidden = torch.zeros(views, len(generators), blocks, dtype=torch.bool)
    predicted = torch.zeros_like(hidden)
    for sample, generator in enumerate(generators):
        order = torch.randperm(blocks, generator=generator)
        for view in range(views):
            first, last = (view * predict, (view + 1) * predict) if predict else (view * blocks // views, (view + 1) * blocks // views)
            rest = torch.cat((order[:first], order[last:]))
            extra = rest[torch.randperm(len(rest), generator=generator)][: hide - (last - first)] if not predict else rest[:0]
            predicted[view, sample, order[first:last]] = True
            hidden[view, sample, order[first:last]] = True
            hidden[view, sample, extra] = True
    return tuple(_enlarge(mask, coarse, block).to(device) for mask in (hidden, predicted))  # type: ignore[return-value]


def _enlarge(mask: Tensor, coarse: Sequence[int], block: Sequence[int]) -> Tensor:
    """``(V, B, blocks)`` -> ``(V, B, N)``, each block's value at all its tokens."""
    grown = mask.unflatten(2, tuple(coarse))
    for axis, side in enumerate(block):
        grown = grown.repeat_interleave(side, dim=2 + axis)
    return grown.flatten(2)
