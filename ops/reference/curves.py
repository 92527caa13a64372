"""Plain torch space-filling curves: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor


def _interleave(axes: list[Tensor], depth: int) -> Tensor:
    """Bits of x, y, z in turn from the top level down, x the highest of each three."""
    code = torch.zeros_like(axes[0])
    for level in range(depth - 1, -1, -1):
        for axis in axes:
            code = code * 2 + (axis >> level) % 2
    return code


def _hilbert(axes: list[Tensor], depth: int) -> Tensor:
    """Skilling 2004, "Programming the Hilbert curve": undo the turn of each level's sub-cube, then decode the interleaved Gray code."""
    axes = list(axes)
    for level in range(depth - 1, -1, -1):
        below = (1 << level) - 1
        for axis in range(3):
            upper = (axes[axis] >> level) % 2 == 1
            exchanged = torch.where(upper, 0, (axes[0] ^ axes[axis]) & below)
            axes[0] = axes[0] ^ torch.where(upper, below, exchanged)
            if axis > 0:
                axes[axis] = axes[axis] ^ exchanged
    gray = _interleave(axes, depth)
    shift = 1
    while shift < 3 * depth:
        gray = gray ^ (gray >> shift)
        shift *= 2
    return gray


def curve_codes(coords: Tensor, depth: int, hilbert: bool, swap: bool) -> Tensor:
    """``(N,)`` int64 position of ``(N, 3)`` cells (x, y, z) below ``2^depth``; ``swap`` exchanges x and y first."""
    x, y, z = coords.long().unbind(dim=1)
    axes = [y, x, z] if swap else [x, y, z]
    return _hilbert(axes, depth) if hilbert else _interleave(axes, depth)


def curve_order(coords: Tensor, offsets: Tensor, depth: int, hilbert: bool, swap: bool) -> tuple[Tensor, Tensor]:
    """``order (N,)`` and ``inverse (N,)`` int64: rows by cloud, then position, then row; and the place of each row."""
    by_code = curve_codes(coords, depth, hilbert, swap).argsort(stable=True)
    clouds = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=coords.device), offsets.diff(), output_size=len(coords))
    order = by_code[clouds[by_code].argsort(stable=True)]
    return order, order.argsort()
