"""Small clips and methods."""

from __future__ import annotations

import torch

from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.data.batch import ClipBatch


def encoder(clip=(8, 48, 48), patch=(2, 8, 8), dim=48, depth=2, heads=4):
    return VisionTransformer(ViTConfig(dim=dim, depth=depth, heads=heads, clip=clip, patch=patch))


def decoder(encoder, dim=24, depth=1, heads=2, kind=SelfDecoder):
    t, p, q = encoder.patch
    return kind(encoder.embed_dim, dim, depth, heads, 3 * t * p * q, Positions("sincos_flat", encoder.grid, dim))


def cross_decoder(encoder):
    return decoder(encoder, kind=CrossDecoder)


def batch(size=2, *, clip=8, height=48, width=48, side=48, repeats=1, seed=0):
    """Noise clips, smooth enough that resizing matters."""
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (size, clip, height, width, 3), generator=rng, dtype=torch.uint8)
    boxes = torch.tensor([0, 0, height, width]).expand(size, 1, repeats, 4)
    return ClipBatch(
        frames=frames,
        boxes=boxes.contiguous(),
        flips=torch.zeros(size, 1, repeats, dtype=torch.bool),
        colors=None,
        labels=torch.zeros(size, dtype=torch.int64),
        names=[f"clip{i}" for i in range(size)],
        seeds=[seed * 1000 + i for i in range(size)],
        starts=torch.zeros(size, 1, dtype=torch.int64),
        short=torch.zeros(size, dtype=torch.bool),
        clip=(clip, side),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
