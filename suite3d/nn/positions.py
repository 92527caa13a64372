"""Where a token stands: fixed and learned tables that are added to tokens, and rotations of queries and keys.

Fixed tables and rotations are buffers outside the state dict: they are a function of the grid, and a file that held them would tie its
weights to one clip size.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Grid = tuple[int, int, int]
TableKind = Literal["sincos_flat", "sincos", "sincos_2d", "learned"]
PositionKind = Literal["sincos_flat", "sincos", "sincos_2d", "learned", "rope", "rope_tiled", "none"]


def sincos_flat(n: int, dim: int) -> Tensor:
    """``(n, dim)`` float32 sinusoids over the flat token index, as VideoMAE (NeurIPS 2022) and "Attention Is All You Need", section 3.5.

    Channel j of token i is sin(a) for even j and cos(a) for odd j, with a = i / 10000^(2 floor(j / 2) / dim), computed in float64.
    """
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(n, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / dim)  # (n, dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


def sincos(grid: Grid, dim: int) -> Tensor:
    """``(T * H * W, dim)`` float32 factorised sinusoids, as V-JEPA (2024, ``uniform_power``): a third of the channels an axis.

    Each axis takes 2 ceil(dim / 6) channels, half sines and half cosines of index / 10000^(2k / channels); t, then h, then w, cut to dim.
    """
    channels = 2 * math.ceil(dim / 6)
    frequency = 10000 ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
    parts = []
    for index in _indices(grid):
        angle = index.double()[:, None] * frequency  # (N, channels / 2)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)[:, :dim].float()


def sincos_2d(grid: Grid, dim: int) -> Tensor:
    """``(T * H * W, dim)`` float32 sinusoids over the plane, as MAE (CVPR 2022): half of the channels for w, then half for h; t is not told.

    Each half is sines, then cosines of index / 10000^(4k / dim). Raises ValueError where ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sincos_2d positions need a number of channels that is a multiple of 4, got {dim}")
    frequency = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    _, row, column = _indices(grid)
    angles = [index.double()[:, None] * frequency for index in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def resample_table(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """``(T*H*W, dim)`` of one grid -> of another: bicubic in space, linear in time. The same table where the grids agree."""
    if source == target:
        return table
    image = rearrange(table, "(t h w) c -> t c h w", t=source[0], h=source[1], w=source[2])
    if source[1:] != target[1:]:
        image = F.interpolate(image, size=target[1:], mode="bicubic", align_corners=False)
    line = rearrange(image, "t c h w -> h w c t").flatten(0, 1)  # (H*W, dim, T)
    if source[0] != target[0]:
        line = F.interpolate(line, size=target[0], mode="linear", align_corners=False)
    return rearrange(line, "n c t -> (t n) c").contiguous()


def _indices(grid: Grid) -> list[Tensor]:
    """Index along t, h and w of every token of a grid, each ``(N,)`` int64, w fastest."""
    return [axis.flatten() for axis in torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")]


def _fixed_table(kind: TableKind, grid: Grid, dim: int) -> Tensor:
    if kind == "sincos_flat":
        return sincos_flat(math.prod(grid), dim)
    return sincos(grid, dim) if kind == "sincos" else sincos_2d(grid, dim)


class Positions(nn.Module):
    """A table of one vector a token.

    Args:
        kind: ``sincos_flat`` (VideoMAE), ``sincos`` (three axes), ``sincos_2d`` (MAE) or ``learned``.
        grid: tokens along (t, h, w).
        dim: channels.
        source_grid: grid the table is computed for, when it is to be resampled to ``grid`` (weights pretrained on other clip sizes).
            A learned table belongs to ``grid`` and takes none.

    Attributes:
        table: ``(N, dim)`` float32; a parameter if learned, else a buffer outside the state dict.
    """

    table: Tensor

    def __init__(self, kind: TableKind, grid: Grid, dim: int, *, source_grid: Grid | None = None) -> None:
        super().__init__()
        if kind == "learned" and source_grid not in (None, grid):
            raise ValueError(f"source_grid expected None for learned positions (they are resampled when loaded), got {source_grid}")
        self.kind, self.grid, self.dim = kind, grid, dim
        self.source_grid = source_grid or grid
        empty = torch.empty(math.prod(grid), dim)
        if kind == "learned":
            self.table = nn.Parameter(empty)
        else:
            self.register_buffer("table", empty, persistent=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Compute the table; a learned one is drawn from a normal of deviation 0.02, cut at 2."""
        if self.kind == "learned":
            nn.init.trunc_normal_(self.table, std=0.02, generator=generator)
        else:
            source = _fixed_table(self.kind, self.source_grid, self.dim)
            self.table.copy_(resample_table(source, self.source_grid, self.grid))

    def resample_from(self, source_grid: Grid) -> None:
        """Recompute a fixed table for weights that were trained on another grid. Raises ValueError for a learned one."""
        if self.kind == "learned":
            raise ValueError("a learned table is resampled by loading the other one (suite3d.interop.vit.load_vit), not recomputed")
        self.source_grid = source_grid
        self.reset_parameters()

    def forward(self, index: Tensor | None = None, *, grid: Grid | None = None) -> Tensor:
        """Vectors of the tokens ``index (B, V)`` -> ``(B, V, dim)``, or of all -> ``(1, N, dim)``; on another grid the table is resampled."""
        table = self.table if grid is None or grid == self.grid else resample_table(self.table, self.grid, grid)
        return table[None] if index is None else table[index]


class Rope(nn.Module):
    """Rotary positions over three axes (Su et al., "RoFormer", section 3.4.2; three axes as in V-JEPA 2, 2025).

    Each axis rotates 2 floor(head_dim / 6) channels, in pairs of neighbours, by index * 10000^(-2k / channels); the channels that are
    left over stay as they are. t, then h, then w.

    Args:
        grid: tokens along (t, h, w).
        head_dim: channels of one head, even.
        tiled: the slip in the released V-JEPA 2 weights: pair k of an axis gets the angles numbered 2k and 2k + 1 (modulo the number of
            pairs) on its two channels, instead of angle k on both. Not a rotation any more, but what those weights were trained with.

    Attributes:
        cos, sin: ``(N, head_dim)`` float32 buffers outside the state dict.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: Grid, head_dim: int, *, tiled: bool = False) -> None:
        super().__init__()
        if head_dim % 2 or head_dim < 6:
            raise ValueError(f"rotary positions over three axes expected an even head_dim of at least 6, got {head_dim}")
        self.grid, self.head_dim, self.tiled = grid, head_dim, tiled
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(math.prod(grid), head_dim), persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute the tables."""
        pairs = self.head_dim // 6
        frequency = 10000 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = []
        for index in _indices(self.grid):
            angle = index.double()[:, None] * frequency  # (N, pairs)
            angles.append(angle.repeat(1, 2) if self.tiled else angle.repeat_interleave(2, dim=1))  # (N, 2 pairs)
        angle = torch.cat(angles, dim=1)
        angle = F.pad(angle, (0, self.head_dim - angle.shape[1]))  # (N, head_dim), angle 0: not rotated
        self.cos.copy_(angle.cos())
        self.sin.copy_(angle.sin())

    def forward(self, index: Tensor | None = None, *, prefix: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines and sines for :func:`rotate`, each ``(B, 1, prefix + V, head_dim)``; tokens before the grid (class token) are not rotated."""
        cos, sin = (self.cos[None], self.sin[None]) if index is None else (self.cos[index], self.sin[index])  # (B, V, head_dim)
        if prefix:
            cos, sin = F.pad(cos, (0, 0, prefix, 0), value=1.0), F.pad(sin, (0, 0, prefix, 0))
        return cos[:, None], sin[:, None]


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring channels of ``x (B, heads, N, head_dim)`` by the angles of :class:`Rope`; same dtype out."""
    cos, sin = rotation
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, heads, N, head_dim / 2)
    turned = torch.stack((-second, first), dim=-1).flatten(-2)  # (B, heads, N, head_dim)
    return (x * cos + turned * sin).to(x.dtype)
