"""Masks of jagged token sets, one set a sample: ``offsets (B + 1,) int64``, sample b owns rows ``offsets[b]:offsets[b + 1]``.

Every sampler returns a bool per token, ``True`` = hidden, and hides a fixed number of tokens of each sample, :func:`hidden_count`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from suite3d.masking.streams import Generators, hidden_count
from suite3d.ops import furthest_point_sample


def random_mask(offsets: Tensor, ratio: float, generators: Generators) -> Tensor:
    """``(N,)`` bool: in every sample :func:`hidden_count` tokens, uniformly at random.

    Args:
        offsets: ``(B + 1,)`` int64.
        ratio: share to hide, in (0, 1).
        generators: B of them.

    Raises:
        ValueError: the ratio; generators and samples that differ in number.
    """

    def draw(tokens: int, generator: torch.Generator, _rows: slice) -> Tensor:
        return torch.randperm(tokens, generator=generator)[: hidden_count(tokens, ratio)]

    return per_sample(offsets, generators, draw)


def disjoint_masks(offsets: Tensor, ratios: Sequence[float], generators: Generators) -> Tensor:
    """``(G, N)`` bool: G masks of which no two hide the same token; mask g hides ``ratios[g]`` of every sample.

    Raises:
        ValueError: a ratio outside (0, 1), or a sum of ratios that hides everything.
    """
    hidden = random_mask(offsets, sum(ratios), generators)
    return split_hidden(hidden, offsets, ratios, generators)


def split_hidden(hidden: Tensor, offsets: Tensor, shares: Sequence[float], generators: Generators) -> Tensor:
    """``(G, N)`` bool: the hidden tokens of every sample dealt at random into G disjoint groups that together hold all of them.

    Group sizes are as ``shares``: cumulative shares of the sample's hidden tokens, each boundary rounded half up.

    Args:
        hidden: ``(N,)`` bool.
        shares: positive weights; (10, 5) makes the first group twice the second.

    Raises:
        ValueError: a share that is not positive.
    """
    if any(share <= 0 for share in shares):
        raise ValueError(f"split_hidden expected positive shares, got {list(shares)}")
    edges, host = _offsets(offsets), hidden.cpu()
    _match(edges, generators)
    groups = torch.zeros(len(shares), len(host), dtype=torch.bool)
    for start, stop, generator in zip(edges[:-1], edges[1:], generators, strict=True):
        rows = host[start:stop].nonzero()[:, 0] + start
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cut = 0
        for group in range(len(shares)):
            end = math.floor(len(rows) * sum(shares[: group + 1]) / sum(shares) + 0.5)
            groups[group, rows[cut:end]] = True
            cut = end
    return groups.to(hidden.device)


def farthest_kept_mask(positions: Tensor, offsets: Tensor, ratio: float, generators: Generators) -> Tensor:
    """``(N,)`` bool: MV-JAR's reversed furthest sampling. Furthest point sampling picks the tokens that are KEPT.

    Isolated tokens are picked early, so what is sparse (far from the sensor) survives and what is dense is hidden. The
    sampling starts at a random token.

    Args:
        positions: ``(N, 3)`` float, metres: the voxel centres.
        offsets: ``(B + 1,)`` int64.
        ratio: share to hide, in (0, 1).
        generators: B of them.

    Source: Xu et al., "MV-JAR", CVPR 2023, section 3.2.
    """
    edges = _offsets(offsets)
    _match(edges, generators)
    lengths = [stop - start for start, stop in zip(edges[:-1], edges[1:], strict=True)]
    kept = torch.tensor([n - hidden_count(n, ratio) for n in lengths], dtype=torch.int64)
    start = torch.tensor([int(torch.randint(max(n, 1), (), generator=g)) for n, g in zip(lengths, generators, strict=True)], dtype=torch.int64)
    first = torch.tensor(edges[:-1], dtype=torch.int64) + start
    device = positions.device
    hidden = torch.ones(len(positions), dtype=torch.bool, device=device)
    if int(kept.sum()):
        hidden[furthest_point_sample(positions.float().contiguous(), offsets.to(device), kept.to(device), start=first.to(device))] = False
    return hidden


def range_mask(distance: Tensor, offsets: Tensor, edges: Sequence[float], ratios: Sequence[float], generators: Generators) -> Tensor:
    """``(N,)`` bool: another ratio in every band of distance from the sensor, a fixed number in each band of each sample.

    Args:
        distance: ``(N,)`` metres from the sensor.
        edges: increasing band limits in metres; band i is ``edges[i - 1] <= distance < edges[i]``, the last one open.
        ratios: one per band, ``len(edges) + 1``, each in (0, 1). A band with a single token hides none.

    Raises:
        ValueError: edges that do not increase, a wrong number of ratios, a ratio outside (0, 1).

    Source: Min et al., "Occupancy-MAE", TIV 2023, section III-B (range-aware random masking).
    """
    check_bands(edges, ratios)
    bands = torch.bucketize(distance.float().cpu(), torch.tensor(edges, dtype=torch.float32), right=True)

    def draw(tokens: int, generator: torch.Generator, rows: slice) -> Tensor:
        order = torch.randperm(tokens, generator=generator)
        band = bands[rows][order]
        members = [order[band == index] for index in range(len(ratios))]
        return torch.cat([rank[: hidden_count(len(rank), ratio)] for rank, ratio in zip(members, ratios, strict=True)])

    return per_sample(offsets, generators, draw)


def check_bands(edges: Sequence[float], ratios: Sequence[float]) -> None:
    """Refuse bands that :func:`range_mask` could not use, with its ValueErrors."""
    if list(edges) != sorted(set(edges)) or any(edge <= 0 for edge in edges):
        raise ValueError(f"range_mask expected increasing positive band edges in metres, got {list(edges)}")
    if len(ratios) != len(edges) + 1:
        raise ValueError(f"range_mask expected {len(edges) + 1} ratios for the bands between {list(edges)} m, got {len(ratios)}")
    for ratio in ratios:
        hidden_count(2, ratio)


def block_mask(coords: Tensor, offsets: Tensor, block: Sequence[int], ratio: float, generators: Generators) -> Tensor:
    """``(N,)`` bool: whole blocks of space. Of the blocks that hold a token, :func:`hidden_count` are hidden with all they hold.

    Args:
        coords: ``(N, D)`` integer cell coordinates, without a batch column.
        block: D block sides in cells.
        ratio: share of occupied blocks to hide, in (0, 1).

    Raises:
        ValueError: a block side below 1, or not one side per axis.
    """
    if len(block) != coords.shape[1] or any(side < 1 for side in block):
        raise ValueError(f"block_mask expected {coords.shape[1]} block sides of at least one cell, got {list(block)}")
    blocks = coords.cpu() // torch.tensor(list(block))

    def draw(_tokens: int, generator: torch.Generator, rows: slice) -> Tensor:
        occupied, member = blocks[rows].unique(dim=0, return_inverse=True)
        chosen = torch.randperm(len(occupied), generator=generator)[: hidden_count(len(occupied), ratio)]
        return torch.isin(member, chosen).nonzero()[:, 0]

    return per_sample(offsets, generators, draw)


def per_sample(offsets: Tensor, generators: Generators, draw: Callable[[int, torch.Generator, slice], Tensor]) -> Tensor:
    """Bool over all tokens, True at the rows ``draw(tokens, generator, rows)`` returns, counted from the sample's first."""
    edges = _offsets(offsets)
    _match(edges, generators)
    hidden = torch.zeros(edges[-1], dtype=torch.bool)
    for start, stop, generator in zip(edges[:-1], edges[1:], generators, strict=True):
        hidden[start + draw(stop - start, generator, slice(start, stop))] = True
    return hidden.to(offsets.device)


def _offsets(offsets: Tensor) -> list[int]:
    edges = offsets.tolist()
    if not edges or edges[0] != 0 or edges != sorted(edges):
        raise ValueError(f"offsets must start at 0 and not decrease, got {edges}")
    return edges


def _match(edges: Sequence[int], generators: Generators) -> None:
    if len(generators) != len(edges) - 1:
        raise ValueError(f"expected one generator per sample, {len(edges) - 1}, got {len(generators)}")
