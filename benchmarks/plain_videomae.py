"""VideoMAE's training step written plainly after its publication, to compare with: nothing clever, nothing shared with the package.

All patches are embedded by a convolution and the hidden ones thrown away by boolean indexing; attention is two matrix products and a softmax; the
targets are made for the whole clip from un-normalised pixels; masks are drawn one by one in numpy and copied. With ``dropped`` masks the
same design with V2's dual masking.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1, 1)


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(self.norm1(x), self.qkv.weight, bias).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def table(n: int, dim: int) -> Tensor:
    """Flat sine positions ``(1, n, dim)``."""
    angle = np.arange(n)[:, None] / np.power(10000, 2 * (np.arange(dim) // 2) / dim)
    angle[:, 0::2], angle[:, 1::2] = np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])
    return torch.tensor(angle, dtype=torch.float32)[None]


class PlainVideoMAE(nn.Module):
    """``encoder`` and ``decoder``: (channels, blocks, heads)."""

    def __init__(self, encoder: tuple[int, int, int], decoder: tuple[int, int, int], patch: tuple[int, int, int], tokens: int) -> None:
        super().__init__()
        (dim, depth, heads), (dec_dim, dec_depth, dec_heads) = encoder, decoder
        self.patch = patch
        values = 3 * patch[0] * patch[1] * patch[2]
        self.embed = nn.Conv3d(3, dim, patch, stride=patch)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads) for _ in range(depth))
        self.norm, self.dec_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dec_dim, eps=1e-6)
        self.bridge, self.mask_token = nn.Linear(dim, dec_dim, bias=False), nn.Parameter(torch.zeros(1, 1, dec_dim))
        self.dec_blocks = nn.ModuleList(PlainBlock(dec_dim, dec_heads) for _ in range(dec_depth))
        self.head = nn.Linear(dec_dim, values)
        self.positions, self.dec_positions = table(tokens, dim), table(tokens, dec_dim)

    def forward(self, x: Tensor, mask: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Loss of normalised clips ``(B, 3, T, H, W)``; ``mask (B, N)`` bool, True = hidden; ``dropped``: True = not decoded."""
        label = self.targets(x)
        b = len(x)
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions.type_as(tokens).to(tokens.device).clone().detach()
        seen = tokens[~mask].reshape(b, -1, tokens.shape[-1])
        for block in self.blocks:
            seen = block(seen)
        seen = self.bridge(self.norm(seen))
        positions = self.dec_positions.expand(b, -1, -1).type_as(seen).to(seen.device).clone().detach()
        decoded = mask if dropped is None else ~dropped
        dim = seen.shape[-1]
        unseen = positions[decoded].reshape(b, -1, dim)
        seen = torch.cat([seen + positions[~mask].reshape(b, -1, dim), self.mask_token + unseen], dim=1)
        for block in self.dec_blocks:
            seen = block(seen)
        predicted = self.head(self.dec_norm(seen[:, -unseen.shape[1] :]))
        label = label[decoded].reshape(b, -1, predicted.shape[-1])
        if dropped is None:
            return F.mse_loss(predicted, label)
        weight = mask[decoded].reshape(b, -1)
        return (((predicted - label) ** 2).mean(-1) * weight).sum() / weight.sum()

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        t, p, q = self.patch
        x = x * STD.to(x.device) + MEAN.to(x.device)
        b, c, frames, height, width = x.shape
        x = x.reshape(b, c, frames // t, t, height // p, p, width // q, q).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, -1, t * p * q, c)
        x = (x - x.mean(dim=-2, keepdim=True)) / (x.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6)
        return x.flatten(2)


def tube_masks(count: int, grid: tuple[int, int, int], ratio: float, rng: np.random.Generator) -> Tensor:
    """``(count, N)`` bool, one shuffle a clip."""
    places = grid[1] * grid[2]
    hidden = int(ratio * places)
    rows = []
    for _ in range(count):
        row = np.hstack([np.zeros(places - hidden), np.ones(hidden)])
        rng.shuffle(row)
        rows.append(np.tile(row, (grid[0], 1)).flatten())
    return torch.from_numpy(np.stack(rows)).to(torch.bool)


def cell_masks(count: int, grid: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    """``(count, N)`` bool: one of V2's four running-cell maps a clip."""
    rows = []
    for _ in range(count):
        phase = int(rng.integers(4))
        maps = []
        for slot in range(grid[0]):
            cell = np.roll(np.array([1, 1, 0, 0]), -(phase + slot + 1)).reshape(2, 2)
            maps.append(np.tile(cell, (grid[1] // 2, grid[2] // 2)).flatten())
        rows.append(np.concatenate(maps))
    return torch.from_numpy(np.stack(rows)).to(torch.bool)
