"""Self-attention inside windows of a sparse grid.

The occupied voxels of each window attend to each other and to nothing else. Windows hold different numbers of voxels, so they are put
into buckets of similar occupancy, padded to the bucket's length and run through scaled_dot_product_attention with a key mask. Where the
voxels go is worked out once per scan batch (:class:`WindowPlan`) and used by every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SMALLEST_BUCKET = 8


def _cells(coords: Tensor, window: tuple[int, int, int], shift: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Window (V, 3) and cell inside it (V, 3), both int64 along (z, y, x); ``window`` and ``shift`` along (x, y, z)."""
    size = coords.new_tensor(window[::-1], dtype=torch.int64)
    shifted = coords[:, 1:].long() + coords.new_tensor(shift[::-1], dtype=torch.int64)
    return shifted // size, shifted % size


def window_cells(coords: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Which cell of its (unshifted) window each voxel sits in: MV-JAR's jigsaw target.

    Args:
        coords: ``(V, 4)`` [batch, z, y, x].
        window: cells along (x, y, z).

    Returns:
        ``(V,)`` int64 in [0, x * y * z), x running fastest.
    """
    _, cell = _cells(coords, window, (0, 0, 0))
    return (cell[:, 0] * window[1] + cell[:, 1]) * window[0] + cell[:, 2]


def sincos_table(window: tuple[int, int, int], dim: int, temperature: float = 10000.0) -> Tensor:
    """``(x * y * z, dim)`` float32 codes of the cells of a window, x running fastest.

    Axes of one cell get no share; the others get ``dim // axes`` columns each (an even number), alternating sine and cosine
    of the signed distance to the window's middle at frequencies ``temperature ** -(2 i / columns)``. Left-over columns are zero.
    """
    axes = [axis for axis in range(3) if window[axis] > 1]
    table = torch.zeros(window[0] * window[1] * window[2], dim)
    if not axes:
        return table
    columns = dim // len(axes) // 2 * 2
    frequency = temperature ** (-torch.arange(0, columns, 2, dtype=torch.float64) / columns)
    z, y, x = torch.meshgrid(*(torch.arange(window[axis], dtype=torch.float64) for axis in (2, 1, 0)), indexing="ij")
    for place, axis in enumerate(axes):
        distance = (x, y, z)[axis].reshape(-1, 1) - window[axis] / 2
        code = torch.stack([(distance * frequency).sin(), (distance * frequency).cos()], dim=2)  # [cells, columns / 2, 2]
        table[:, place * columns : (place + 1) * columns] = code.flatten(1).float()
    return table


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """How V voxels are spread over windows padded to a few lengths.

    Attributes:
        slot: ``(V,)`` int64 place of each voxel in the padded buffer, in which bucket follows bucket and window follows window.
        keys: per bucket ``(windows, 1, 1, length)`` bool, True where a voxel sits.
        cell: ``(V,)`` int64 cell of each voxel inside its window, x running fastest.
    """

    slot: Tensor
    keys: list[Tensor]
    cell: Tensor

    @property
    def sizes(self) -> list[int]:
        """Slots of each bucket."""
        return [keys.numel() for keys in self.keys]


@torch.no_grad()
def plan_windows(coords: Tensor, window: tuple[int, int, int], *, shifted: bool) -> WindowPlan:
    """Group voxels by window.

    Args:
        coords: ``(V, 4)`` [batch, z, y, x], non-negative.
        window: cells along (x, y, z).
        shifted: move the windows by half their size along every axis (Fan et al. 2022, section 3.3).
    """
    where, cell = _cells(coords, window, tuple(side // 2 for side in window) if shifted else (0, 0, 0))  # type: ignore[arg-type]
    flat_cell = (cell[:, 0] * window[1] + cell[:, 1]) * window[0] + cell[:, 2]
    if len(coords) == 0:
        return WindowPlan(slot=flat_cell, keys=[], cell=flat_cell)
    extent = where.amax(0) + 1
    window_id = ((coords[:, 0].long() * extent[0] + where[:, 0]) * extent[1] + where[:, 1]) * extent[2] + where[:, 2]
    order = torch.argsort(window_id, stable=True)
    _, counts = torch.unique_consecutive(window_id[order], return_counts=True)
    row_window = torch.repeat_interleave(torch.arange(len(counts), device=coords.device), counts)
    rank = torch.arange(len(order), device=coords.device) - (counts.cumsum(0) - counts)[row_window]

    volume = window[0] * window[1] * window[2]
    lengths = [SMALLEST_BUCKET]
    while lengths[-1] < volume:
        lengths.append(min(2 * lengths[-1], volume))
    bucket = torch.bucketize(counts, counts.new_tensor(lengths))
    first_slot = torch.empty_like(counts)
    keys = []
    used = 0
    for index, length in enumerate(lengths):
        mine = (bucket == index).nonzero().squeeze(1)
        if len(mine) == 0:
            continue
        first_slot[mine] = used + length * torch.arange(len(mine), device=coords.device)
        keys.append((torch.arange(length, device=coords.device) < counts[mine][:, None])[:, None, None, :])  # [windows, 1, 1, length]
        used += length * len(mine)
    slot = torch.empty_like(order)
    slot[order] = first_slot[row_window] + rank
    return WindowPlan(slot=slot, keys=keys, cell=flat_cell)


class WindowAttention(nn.Module):
    """Multi-head attention within windows; the position code enters queries and keys, not values.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"WindowAttention expected dim to be a multiple of heads, got dim {dim} and {heads} heads")
        self.heads = heads
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, position: Tensor, plan: WindowPlan) -> Tensor:
        """``(V, dim)`` voxels, ``(V, dim)`` position codes -> ``(V, dim)``."""
        dim = x.shape[1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        query_key = F.linear(x + position, weight[: 2 * dim], bias[: 2 * dim])  # [V, 2 dim]
        value = F.linear(x, weight[2 * dim :], bias[2 * dim :])
        if not plan.keys:
            return self.out_proj(value)
        pairs = zip(_spread(query_key, plan), _spread(value, plan), plan.keys, strict=True)
        mixed = torch.cat([self._attend(*pair) for pair in pairs])  # [slots, dim]
        return self.out_proj(mixed.index_select(0, plan.slot))

    def _attend(self, query_key: Tensor, value: Tensor, keys: Tensor) -> Tensor:
        windows, length = keys.shape[0], keys.shape[3]
        query, key = rearrange(query_key, "(w l) (two h d) -> two w h l d", w=windows, two=2, h=self.heads).unbind(0)
        value = rearrange(value, "(w l) (h d) -> w h l d", w=windows, h=self.heads)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=keys.expand(windows, 1, length, length))  # [w, h, l, d]
        return rearrange(out, "w h l d -> (w l) (h d)")


def _spread(values: Tensor, plan: WindowPlan) -> tuple[Tensor, ...]:
    """``(V, C)`` -> per bucket ``(windows * length, C)``, zero where no voxel sits."""
    sizes = plan.sizes
    return values.new_zeros(sum(sizes), values.shape[1]).index_copy(0, plan.slot, values).split(sizes)
