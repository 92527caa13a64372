"""Masks of tokens with a place: regions of space instead of scattered tokens. ``True`` = hidden, a fixed number in every sample.

Any coordinate set: voxels and tokens by their cell, points and patches in metres, in any number of dimensions; jagged as in ``jagged``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.masking.jagged import per_sample
from suite3d.masking.streams import Generators, hidden_count


def space_block_mask(
    coords: Tensor, offsets: Tensor, block: Sequence[float] | float, ratio: float, generators: Generators, *, shifted: bool = True
) -> Tensor:
    """``(N,)`` bool: blocks of space with everything in them, in random order, until :func:`hidden_count` tokens of the sample are hidden.

    UniPAD's blocks (it hides a share of the blocks of a grid that is always the same), lifted to any coordinates: only blocks that hold a token
    count, the grid of blocks lies anew for every sample, and of the last block only the tokens nearest to its centre are hidden, so that the
    number is exact. Beside a hidden token there is less to copy from than with scattered ones.

    Args:
        coords: ``(N, D)`` integer cells or floating coordinates, finite, without a batch column.
        offsets: ``(B + 1,)`` int64.
        block: side of a block along each axis, in the units of ``coords``; one number = all sides.
        ratio: share to hide, in (0, 1); UniPAD has 0.8 for voxels.
        generators: B of them.
        shifted: False keeps a corner of the blocks at the origin.

    Raises:
        ValueError: sides that are not positive or not one an axis, coordinates that are not finite, the ratio, the generators.

    Source: Yang et al., "UniPAD", CVPR 2024, mask generator.
    """
    lengths = list(block) if isinstance(block, Sequence) else [block] * coords.shape[-1]
    if coords.ndim != 2 or len(lengths) != coords.shape[1] or min(lengths) <= 0:
        raise ValueError(f"space_block_mask expected (N, D) coordinates and D positive block sides, got {tuple(coords.shape)} and {lengths}")
    sides = torch.tensor(lengths, dtype=torch.float64)
    places = _places("space_block_mask", coords)

    def draw(tokens: int, generator: torch.Generator, rows: slice) -> Tensor:
        shift = torch.rand(len(sides), generator=generator, dtype=torch.float64) if shifted else torch.zeros(len(sides), dtype=torch.float64)
        scaled = places[rows] / sides + shift  # in blocks
        blocks, member, sizes = scaled.floor().unique(dim=0, return_inverse=True, return_counts=True)
        rank = torch.empty(len(blocks), dtype=torch.int64)
        order = torch.randperm(len(blocks), generator=generator)
        rank[order] = torch.arange(len(blocks))
        inside = (scaled - blocks[member] - 0.5).square().sum(dim=1)
        # By block, and in a block from its centre outwards; only in the last hidden block the second matters.
        nearest = inside.argsort(stable=True)
        by_block = nearest[rank[member][nearest].argsort(stable=True)]
        return by_block[: hidden_count(tokens, ratio)]

    return per_sample(offsets, generators, draw)


def nearest_mask(coords: Tensor, offsets: Tensor, ratio: float, generators: Generators) -> Tensor:
    """``(N,)`` bool: one region of every sample, the :func:`hidden_count` tokens nearest to one of them drawn at random.

    Args:
        coords: ``(N, D)``, finite.
        offsets, ratio, generators: as :func:`suite3d.masking.random_mask`.

    Raises:
        ValueError: coordinates that are not finite, the ratio, the generators.

    Source: Yu et al., "Point-BERT", CVPR 2022, section 3.3, and Pang et al., "Point-MAE", ECCV 2022, table 4 ("block" masking).
    """
    if coords.ndim != 2:
        raise ValueError(f"nearest_mask expected (N, D) coordinates, got {tuple(coords.shape)}")
    places = _places("nearest_mask", coords)

    def draw(tokens: int, generator: torch.Generator, rows: slice) -> Tensor:
        if tokens == 0:
            return torch.zeros(0, dtype=torch.int64)
        own = places[rows]
        middle = own[int(torch.randint(tokens, (), generator=generator))]
        return (own - middle).square().sum(dim=1).argsort(stable=True)[: hidden_count(tokens, ratio)]

    return per_sample(offsets, generators, draw)


def _places(name: str, coords: Tensor) -> Tensor:
    """Coordinates on the host in float64. Raises ValueError where they are not finite."""
    places = coords.detach().cpu().double()
    if not math.isfinite(float(places.abs().sum())):
        raise ValueError(f"{name} expected finite coordinates, got NaN or infinity")
    return places
