"""Decoder of masked methods: asks what is at places the encoder did not see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.ops import SparseTensor
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures
from suite3d.pointcloud.encoders.sst import SSTLayer
from suite3d.pointcloud.encoders.window import plan_windows, sincos_table
from suite3d.pointcloud.methods.units import unit_dim, unit_features, unit_shape, unit_size


@dataclass(kw_only=True)
class WindowDecoderConfig:
    """Sizes of :class:`WindowDecoder`.

    Attributes:
        dim: channels of a token.
        heads: attention heads.
        layers: transformer layers, alternating plain and shifted windows.
        feedforward: hidden channels of the feed-forward part.
        window: units along (x, y, z).
    """

    dim: int = 128
    heads: int = 8
    layers: int = 6
    feedforward: int = 256
    window: tuple[int, int, int] = (16, 16, 1)


class WindowDecoder(nn.Module):
    """Windowed transformer over the visible units and the queried ones together.

    A visible unit enters with the encoder's features; a queried one with a learned mask token plus what the encoder's coarser levels
    carried there from visible places (zeros for single-stride encoders). Attention in windows, plain and shifted in turn, with the
    position code of :func:`sincos_table`, lets a query read its visible neighbourhood.

    Attributes:
        position: ``(cells, dim)`` code of each cell of a window.

    Args:
        encoder: whose features are decoded (only its sizes are read).
        config: sizes.
    """

    position: Tensor

    def __init__(self, encoder: LidarEncoder, config: WindowDecoderConfig) -> None:
        super().__init__()
        self.window = (config.window[0], config.window[1], config.window[2])
        self.shape = unit_shape(encoder.grid, unit_size(encoder))
        self.embed = nn.Linear(unit_dim(encoder), config.dim)
        self.mask_token = nn.Parameter(torch.empty(config.dim).normal_(std=0.02))
        self.layers = nn.ModuleList(SSTLayer(config.dim, config.heads, config.feedforward) for _ in range(config.layers))
        self.register_buffer("position", sincos_table(self.window, config.dim), persistent=False)

    def forward(self, encoder: LidarEncoder, features: LidarFeatures, visible: Tensor, queries: Tensor) -> Tensor:
        """``(V, 4)`` visible and ``(Q, 4)`` queried unit coordinates, all distinct -> ``(Q, dim)``."""
        coords = torch.cat([visible, queries])
        asked = torch.arange(len(coords), device=coords.device) >= len(visible)  # [V+Q]
        tokens = self.embed(unit_features(encoder, features, coords)) + asked[:, None] * self.mask_token  # [V+Q, dim]
        placed = SparseTensor.from_unsorted(
            coords,
            torch.arange(len(coords), device=coords.device, dtype=torch.float64)[:, None],
            spatial_shape=self.shape,
            batch_size=features.levels[0].batch_size,
        )
        order = placed.feats[:, 0].long()
        tokens = tokens[order]
        plans = [plan_windows(placed.coords, self.window, shifted=shifted) for shifted in (False, True)]
        for index, layer in enumerate(self.layers):
            plan = plans[index % 2]
            tokens = layer(tokens, self.position[plan.cell].to(tokens.dtype), plan)
        return tokens[torch.argsort(order)][len(visible) :]
