"""Batches of fractals with any views, and the smallest encoders, for the tests of joint-embedding methods."""

from __future__ import annotations

import numpy as np
import torch

from suite3d.image.backbones.resnet import ResNet
from suite3d.image.data.batch import ImageBatch
from suite3d.image.data.fractals import FractalConfig, Fractals
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer, ViTConfig

PICTURES = Fractals(FractalConfig(classes=4, train=8, val=1, size=24, points=500))
VIEW = ViewConfig(size=16, crop="random_resized", area=(0.3, 1.0), flip=0.5, jitter=0.8, gray=0.2)
TWO = [ViewGroup(count=2, view=VIEW)]
MULTI = [ViewGroup(count=2, view=VIEW), ViewGroup(count=2, view=ViewConfig(size=8, crop="random_resized", area=(0.1, 0.4)))]


def batch(count: int = 6, views: list[ViewGroup] = TWO, *, start: int = 0) -> ImageBatch:
    """Some fractals with their views, always the same."""
    source = ImageSource(PICTURES, views)
    rows = range(start, start + count)
    return source.collate([source.get(row, np.random.default_rng(row)) for row in rows], [100 + row for row in rows])


def vit(**changes) -> VisionTransformer:
    sizes = {"dim": 16, "depth": 1, "heads": 2, "clip": (1, 16, 16), "patch": (1, 4, 4), "positions": "sincos_2d", "class_token": True}
    return VisionTransformer(ViTConfig(**(sizes | changes)), generator=torch.Generator().manual_seed(0))


def resnet(width: int = 4) -> ResNet:
    torch.manual_seed(0)
    return ResNet(18, width=width, stem="small")


def trained(model, data: ImageBatch, *, steps: int = 20, lr: float = 0.01, after: bool = True) -> list[float]:
    """Losses of a few AdamW steps on one batch, with or without what the method does after each."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    losses = []
    for step in range(steps):
        output = model(data)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if after and hasattr(model, "after_step"):
            model.after_step(step, steps)
        losses.append(output.loss.item())
    return losses


def gradient_norm(model, data: ImageBatch) -> float:
    """Norm of the gradient that the encoder receives."""
    model.zero_grad()
    model(data).loss.backward()
    return float(sum(p.grad.square().sum() for p in model.encoder.parameters() if p.grad is not None) ** 0.5)
