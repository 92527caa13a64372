"""MAE's training step written plainly after its publication, to compare with: nothing clever, nothing shared with the package.

All patches are embedded by a convolution, then shuffled by the order of random numbers, and the first quarter is gathered; attention is two
matrix products and a softmax; the decoder sees the class token, the visible tokens and one mask token for every hidden one in the order of the
picture, and predicts every patch; targets are made for the whole picture, and the loss is weighted by the mask.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def plane_table(side: int, dim: int) -> Tensor:
    """``(1, 1 + side * side, dim)``: sines and cosines of the column in the first half of the channels, of the row in the second; 0 for the
    class token."""
    frequency = 1 / 10000 ** (np.arange(dim // 4) / (dim / 4))
    rows, columns = np.divmod(np.arange(side * side), side)
    parts = [wave(np.outer(place, frequency)) for place in (columns, rows) for wave in (np.sin, np.cos)]
    return torch.tensor(np.pad(np.concatenate(parts, axis=1), ((1, 0), (0, 0))), dtype=torch.float32)[None]


class PlainMAE(nn.Module):
    """``encoder`` and ``decoder``: (channels, blocks, heads); ``side`` patches of ``patch`` pixels along each side of the picture."""

    def __init__(self, encoder: tuple[int, int, int], decoder: tuple[int, int, int], *, patch: int, side: int, ratio: float = 0.75) -> None:
        super().__init__()
        (dim, depth, heads), (dec_dim, dec_depth, dec_heads) = encoder, decoder
        self.patch, self.side, self.ratio = patch, side, ratio
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.class_token, self.mask_token = (nn.Parameter(0.02 * torch.randn(1, 1, width)) for width in (dim, dec_dim))
        self.blocks = nn.ModuleList(PlainBlock(dim, heads) for _ in range(depth))
        self.norm, self.dec_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dec_dim, eps=1e-6)
        self.bridge = nn.Linear(dim, dec_dim)
        self.dec_blocks = nn.ModuleList(PlainBlock(dec_dim, dec_heads) for _ in range(dec_depth))
        self.head = nn.Linear(dec_dim, 3 * patch * patch)
        self.positions = nn.Parameter(plane_table(side, dim), requires_grad=False)
        self.dec_positions = nn.Parameter(plane_table(side, dec_dim), requires_grad=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Loss of normalised pictures ``(B, 3, S, S)`` with a mask of its own."""
        seen, mask, restore = self.encode(pictures)
        predicted = self.decode(seen, restore)
        error = ((predicted - self.targets(pictures)) ** 2).mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def encode(self, pictures: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Class and visible tokens, the mask ``(B, N)`` (1 = hidden), and where each patch went in the shuffled order."""
        tokens = self.embed(pictures).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        b, n, d = tokens.shape
        kept = int(n * (1 - self.ratio))
        shuffle = (torch.rand(b, n, device=tokens.device) if noise is None else noise).argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        visible = torch.gather(tokens, 1, shuffle[:, :kept, None].repeat(1, 1, d))
        mask = torch.ones(b, n, device=tokens.device)
        mask[:, :kept] = 0
        mask = torch.gather(mask, 1, restore)
        x = torch.cat([(self.class_token + self.positions[:, :1]).expand(b, -1, -1), visible], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, restore

    def decode(self, seen: Tensor, restore: Tensor) -> Tensor:
        """``(B, N, 3 * patch * patch)`` predictions of all patches."""
        x = self.bridge(seen)
        b, n = restore.shape
        hidden = self.mask_token.repeat(b, n + 1 - x.shape[1], 1)
        whole = torch.cat([x[:, 1:], hidden.type_as(x)], dim=1)
        whole = torch.gather(whole, 1, restore[:, :, None].repeat(1, 1, whole.shape[2]))
        x = torch.cat([x[:, :1], whole], dim=1) + self.dec_positions
        for block in self.dec_blocks:
            x = block(x)
        return self.head(self.dec_norm(x))[:, 1:]

    def targets(self, pictures: Tensor) -> Tensor:
        """All patches, each with its own mean and deviation taken out, values in the order (row, column, channel)."""
        b, p, side = len(pictures), self.patch, self.side
        x = pictures.reshape(b, 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1).reshape(b, side * side, -1)
        return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
