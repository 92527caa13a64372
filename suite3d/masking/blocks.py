"""The multi-block masks of joint-embedding prediction: a few large or many small boxes that span the whole clip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suite3d.masking.grid import Grid, check_grid
from suite3d.masking.streams import Generators

MAX_DRAWS = 100


def two_block_masks(
    grid: Grid,
    generators: Generators,
    *,
    blocks: Sequence[int] = (8, 2),
    scales: Sequence[float] = (0.15, 0.7),
    aspect: tuple[float, float] = (0.75, 1.5),
    sizes: torch.Generator | None = None,
) -> Tensor:
    """``(G, B, N)`` bool: G masks of each sample; mask g hides the union of ``blocks[g]`` boxes of area ``scales[g] H' W'``, over all time.

    A box has a height-to-width ratio drawn uniformly from ``aspect``, sides ``round(sqrt(area * ratio))`` and
    ``round(sqrt(area / ratio))`` cut to the grid, and a uniform place. All boxes of one mask have the same size. A draw that would hide
    every token is drawn again.

    How many tokens are hidden differs from sample to sample: :func:`suite3d.masking.padded_indices` packs them without cutting any off.
    (The released code cuts all samples to the batch's smallest count in (t, h, w) order, which always loses the latest frames.)

    Args:
        grid: (T', H', W').
        generators: B of them.
        sizes: draws one size per mask for the whole batch, as V-JEPA 2 does (seeded with the step); None draws it per sample.

    Raises:
        ValueError: counts and scales that differ in number or make no sense; a grid on which no draw leaves a token visible.

    Source: Assran et al., "V-JEPA 2", 2025, section 2.1 and appendix A; Bardes et al., "V-JEPA", 2024, section 3.2.
    """
    slots, height, width = check_grid(grid)
    if len(blocks) != len(scales) or any(count < 1 for count in blocks) or any(not 0 < scale < 1 for scale in scales):
        raise ValueError(f"two_block_masks expected one scale in (0, 1) per positive block count, got {list(blocks)} and {list(scales)}")
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"two_block_masks expected an increasing range of positive aspect ratios, got {aspect}")
    masks = torch.zeros(len(blocks), len(generators), height, width, dtype=torch.bool)
    for group, (count, scale) in enumerate(zip(blocks, scales, strict=True)):
        shared = None if sizes is None else _size(height, width, scale, aspect, sizes)
        for sample, generator in enumerate(generators):
            masks[group, sample] = _union(height, width, count, scale, aspect, shared, generator)
    return masks[:, :, None].expand(-1, -1, slots, -1, -1).flatten(2)  # [G, B, N]


def _size(height: int, width: int, scale: float, aspect: tuple[float, float], generator: torch.Generator) -> tuple[int, int]:
    ratio = aspect[0] + (aspect[1] - aspect[0]) * float(torch.rand((), generator=generator))
    area = scale * height * width
    tall, wide = math.floor(math.sqrt(area * ratio) + 0.5), math.floor(math.sqrt(area / ratio) + 0.5)
    return min(max(tall, 1), height), min(max(wide, 1), width)


def _union(
    height: int, width: int, count: int, scale: float, aspect: tuple[float, float], shared: tuple[int, int] | None, generator: torch.Generator
) -> Tensor:
    for _ in range(MAX_DRAWS):
        tall, wide = shared or _size(height, width, scale, aspect, generator)
        hidden = torch.zeros(height, width, dtype=torch.bool)
        for _ in range(count):
            top = int(torch.randint(height - tall + 1, (), generator=generator))
            left = int(torch.randint(width - wide + 1, (), generator=generator))
            hidden[top : top + tall, left : left + wide] = True
        if not hidden.all():
            return hidden
    raise ValueError(
        f"{count} blocks of {scale:g} of a {height} x {width} grid leave no token visible in {MAX_DRAWS} draws: use fewer or smaller ones"
    )
