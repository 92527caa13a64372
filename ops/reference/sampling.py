"""Plain torch furthest point sampling: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor


def furthest_point_sample(xyz: Tensor, offsets: Tensor, counts: Tensor, start: Tensor) -> Tensor:
    """Global rows, clouds after one another, each in selection order.

    Args:
        xyz: ``(N, 3)`` float32, finite.
        offsets: ``(B + 1,)`` int64.
        counts: ``(B,)`` int64 samples wanted of each cloud.
        start: ``(B,)`` int64 global row of the first sample of each cloud.

    Squared distances are ``dx*dx + dy*dy + dz*dz`` in float32, each operation rounded once, so that every device agrees on every tie.
    """
    sizes = offsets.diff()
    batch_size, longest, rounds = len(sizes), int(sizes.max()) if len(sizes) else 0, int(counts.max()) if len(counts) else 0
    if longest == 0 or rounds == 0:
        return offsets.new_empty(0)
    column = torch.arange(longest, device=xyz.device)
    valid = column < sizes[:, None]  # [B, L]
    row = (offsets[:-1, None] + column).clamp(max=len(xyz) - 1)
    x, y, z = xyz[row].unbind(dim=-1)  # each [B, L]
    nearest = torch.where(valid, torch.inf, -1.0)  # squared distance to the nearest sample so far; float32
    current = torch.where(counts > 0, start - offsets[:-1], 0)[:, None].clamp(0, longest - 1)  # [B, 1]
    chosen = offsets.new_empty((batch_size, rounds))
    for step in range(rounds):
        chosen[:, step] = current[:, 0] + offsets[:-1]
        dx, dy, dz = (axis - axis.gather(1, current) for axis in (x, y, z))
        nearest = torch.where(valid, torch.minimum(nearest, dx * dx + dy * dy + dz * dz), -1.0)
        furthest = nearest.amax(dim=1, keepdim=True)
        current = torch.where(nearest == furthest, column, longest - 1).amin(dim=1, keepdim=True)  # ties: lowest row
    return chosen[torch.arange(rounds, device=xyz.device) < counts[:, None]]
