"""Masks made of boxes: few large ones (BEiT) or many small ones (GMML). ``True`` = hidden, with the same number in every sample.

For clips draw them on (1, H', W') and repeat them with :func:`over_time`, or on (T', H', W') for boxes that also end in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor

from suite3d.masking.streams import Generators, hidden_count

MAX_DRAWS = 10_000


def blockwise_mask(
    grid: Sequence[int], ratio: float, generators: Generators, *, smallest: int = 16, aspect: float = 0.3, device: torch.device | str = "cpu"
) -> Tensor:
    """``(B, N)`` bool: boxes of random volume and shape until exactly :func:`hidden_count` tokens are hidden.

    A box has a volume uniform between ``smallest`` and the number still to hide, and sides in a ratio log-uniform in [aspect, 1 / aspect]
    (more than two axes are split one by one), at a uniform place. Of a box that would hide too many only the tokens next to its
    centre are hidden, so the count is exact (the published algorithm stops near it).

    Args:
        grid: sides of the token grid, any number of axes; axes of length 1 have no shape to draw.
        ratio: share to hide, in (0, 1); BEiT has 0.4.
        generators: B of them.
        smallest: tokens of the smallest box, at least 1 (cut to what is still to hide).
        aspect: in (0, 1].

    Raises:
        ValueError: an empty axis, the ratio, the other parameters.

    Source: Bao et al., "BEiT", ICLR 2022, algorithm 1.
    """
    if smallest < 1 or not 0 < aspect <= 1:
        raise ValueError(f"blockwise_mask expected smallest >= 1 and an aspect in (0, 1], got {smallest} and {aspect}")

    def sides(left: int, generator: torch.Generator) -> list[int]:
        low = min(smallest, left)
        volume = low + (left - low) * float(torch.rand((), generator=generator))
        lengths = []
        axes = [index for index, side in enumerate(grid) if side > 1]
        for remaining in range(len(axes), 0, -1):
            log_ratio = math.log(aspect) * (1 - 2 * float(torch.rand((), generator=generator))) if remaining > 1 else 0.0
            length = volume ** (1 / remaining) * math.exp(log_ratio * (remaining - 1) / remaining)
            lengths.append(length)
            volume /= length
        drawn = [1] * len(grid)
        for index, length in zip(axes, lengths, strict=True):
            drawn[index] = min(max(math.floor(length + 0.5), 1), grid[index])
        return drawn

    return _boxes("blockwise_mask", grid, ratio, generators, sides).to(device)


def grouped_mask(grid: Sequence[int], ratio: float, generators: Generators, *, largest: float = 0.3, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: groups of connected tokens, boxes with sides uniform from 1 to ``largest`` of the grid's side, until exactly
    :func:`hidden_count` tokens are hidden.

    Args:
        grid, generators: as :func:`blockwise_mask`.
        ratio: share to hide, in (0, 1); GMML draws it anew for each step, see :func:`suite3d.masking.drawn_ratio`.
        largest: in (0, 1].

    Raises:
        ValueError: an empty axis, the ratio, ``largest``.

    Source: Atito et al., "GMML is All you Need", 2022, section 3.1.
    """
    if not 0 < largest <= 1:
        raise ValueError(f"grouped_mask expected largest in (0, 1], got {largest}")

    def sides(_left: int, generator: torch.Generator) -> list[int]:
        return [int(torch.randint(1, max(math.floor(largest * side), 1) + 1, (), generator=generator)) for side in grid]

    return _boxes("grouped_mask", grid, ratio, generators, sides).to(device)


def over_time(mask: Tensor, slots: int) -> Tensor:
    """``(B, P)`` mask of places -> ``(B, slots * P)``: the same places in every time slot."""
    return repeat(mask, "b p -> b (t p)", t=slots)


def check_sides(name: str, grid: Sequence[int]) -> None:
    """Raise ValueError unless the grid has an axis and no axis is empty."""
    if not len(grid) or any(side < 1 for side in grid):
        raise ValueError(f"{name} expected a token grid with positive sides, got {tuple(grid)}")


def _boxes(name: str, grid: Sequence[int], ratio: float, generators: Generators, sides: Callable[[int, torch.Generator], list[int]]) -> Tensor:
    check_sides(name, grid)
    count = hidden_count(math.prod(grid), ratio)
    masks = torch.zeros(len(generators), *grid, dtype=torch.bool)
    for hidden, generator in zip(masks.numpy(), generators, strict=True):  # the boxes are small: numpy hides them several times faster
        left = count
        for _ in range(MAX_DRAWS):
            if left == 0:
                break
            drawn = sides(left, generator)
            corner = [int(torch.randint(side - length + 1, (), generator=generator)) for side, length in zip(grid, drawn, strict=True)]
            left -= _hide_box(hidden, corner, drawn, left)
        if left:
            raise ValueError(f"{name} could not hide {count} tokens of a grid {tuple(grid)} in {MAX_DRAWS} boxes: use larger boxes")
    return masks.flatten(1)


def _hide_box(hidden: NDArray[np.bool_], corner: list[int], lengths: list[int], left: int) -> int:
    """Hide a box, or of it the ``left`` tokens not yet hidden that are nearest to its centre; how many are hidden now that were not before."""
    view = hidden[tuple(slice(start, start + length) for start, length in zip(corner, lengths, strict=True))]
    count = view.size - int(np.count_nonzero(view))
    if count <= left:
        view[...] = True
        return count
    fresh = np.argwhere(~view)  # [F, axes]
    distance = ((fresh - (np.array(lengths) - 1) / 2) ** 2).sum(axis=1)
    view[tuple(fresh[distance.argsort(kind="stable")[:left]].T)] = True
    return left
