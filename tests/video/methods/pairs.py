"""Batches with two windows of each video, and a tiny convolutional encoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from torch import nn

from tests.video.methods.clips import batch


def pair_batch(size=3, *, clip=8, side=24, seed=0):
    """``size`` samples of two noise windows of ``clip`` frames."""
    clips = batch(size, clip=2 * clip, height=side, width=side, side=side, seed=seed)
    twice = lambda x: x.expand(x.shape[0], 2, *x.shape[2:]).clone()  # noqa: E731
    starts = torch.stack([torch.zeros(size), torch.full((size,), clip)], dim=1).long()
    return replace(clips, boxes=twice(clips.boxes), flips=twice(clips.flips), starts=starts, clip=(clip, side))


class TinyEncoder(nn.Module):
    """Two convolutions with a batch norm between; tokens of 6 channels."""

    embed_dim = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, stride=2, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 6, 3, stride=(1, 4, 4), padding=1)
        )

    def forward(self, clips):
        return rearrange(self.layers(clips), "b c t h w -> b (t h w) c")
