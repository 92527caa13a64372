"""Masks of a dense token grid (T', H', W'), flattened in that order to N = T' H' W' tokens. ``True`` = hidden.

An image is a grid with T' = 1, a volume one whose first axis is depth. Each sampler draws one row of noise per sample from that
sample's generator; sorting happens on ``device`` for the whole batch, so a batch costs one copy and one sort whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor

from suite3d.masking.streams import Generators, hidden_count

Grid = Sequence[int]


def tube_mask(grid: Grid, ratio: float, generators: Generators, *, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: the same places hidden in every time slot, :func:`hidden_count` of the H' W' places of each sample.

    Hiding a place for the whole clip leaves no neighbour in time to copy from.

    Args:
        grid: (T', H', W').
        ratio: share of the places to hide, in (0, 1).
        generators: B of them.

    Raises:
        ValueError: the ratio, or a grid with an empty axis.

    Source: Tong et al., "VideoMAE", NeurIPS 2022, section 3.2.
    """
    slots, height, width = check_grid(grid)
    places = _hide_random(height * width, ratio, generators, device)  # [B, H'W']
    return repeat(places, "b p -> b (t p)", t=slots)


def temporal_mask(grid: Grid, ratio: float, generators: Generators, *, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: whole time slots hidden, :func:`hidden_count` of the T' slots of each sample. Arguments as :func:`tube_mask`."""
    slots, height, width = check_grid(grid)
    hidden = _hide_random(slots, ratio, generators, device)  # [B, T']
    return repeat(hidden, "b t -> b (t p)", p=height * width)


def space_time_mask(grid: Grid, ratio: float, generators: Generators, *, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: :func:`hidden_count` of all N tokens, uniformly at random. Arguments as :func:`tube_mask`.

    Source: Feichtenhofer et al., "Masked Autoencoders As Spatiotemporal Learners", NeurIPS 2022.
    """
    slots, height, width = check_grid(grid)
    return _hide_random(slots * height * width, ratio, generators, device)


def running_cell_masks(grid: Grid) -> Tensor:
    """``(4, N)`` bool: VideoMAE V2's four decoder maps; each hides half of every 2 x 2 cell, and the half moves on with time.

    The cells ``[1 1; 0 0], [1 0; 0 1], [0 0; 1 1], [0 1; 1 0]`` (1 = hidden) follow one another cyclically; map p shows cell
    ``(p + 1 + t) mod 4`` in time slot t. Where H' or W' is odd the last cell is cut.

    Source: Wang et al., "VideoMAE V2", CVPR 2023, section 3.2 (running cell masking, ratio 0.5).
    """
    slots, height, width = check_grid(grid)
    queue = torch.tensor([True, True, False, False])
    cells = torch.stack([queue.roll(-turn) for turn in range(4)]).view(4, 2, 2)
    tiled = cells.repeat(1, -(-height // 2), -(-width // 2))[:, :height, :width]  # [4, H', W']
    turn = (torch.arange(4)[:, None] + 1 + torch.arange(slots)) % 4  # [4, T']
    return rearrange(tiled[turn], "p t h w -> p (t h w)")


def decoded_cells(grid: Grid, generators: Generators, *, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: for each sample one of the four :func:`running_cell_masks`, drawn uniformly. ``True`` = not decoded."""
    choice = torch.stack([torch.randint(4, (), generator=generator) for generator in generators])
    return running_cell_masks(grid)[choice].to(device)


def check_grid(grid: Grid) -> tuple[int, int, int]:
    """(T', H', W') of a grid. Raises ValueError unless there are three axes with at least one token each."""
    if len(grid) != 3 or any(side < 1 for side in grid):
        raise ValueError(f"expected a token grid (T', H', W') with positive sides, got {tuple(grid)}")
    slots, height, width = grid
    return slots, height, width


def _hide_random(places: int, ratio: float, generators: Generators, device: torch.device | str) -> Tensor:
    """``(B, places)`` bool with :func:`hidden_count` true in each row: the places of smallest noise."""
    count = hidden_count(places, ratio)
    noise = torch.stack([torch.rand(places, generator=generator) for generator in generators]).to(device, non_blocking=True)
    chosen = noise.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, chosen, torch.ones_like(chosen, dtype=torch.bool))
