"""Running an encoder over the views of a batch; neighbouring views of one size go through it together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor, nn

from suite3d.image.data.batch import ImageBatch
from suite3d.nn.pooling import pooled_features


def same_size(batch: ImageBatch, views: range | None = None) -> Iterator[tuple[list[int], Tensor]]:
    """Runs of neighbouring views of one size, and their pixels ``(V * B, 3, S, S)``, view after view.

    Args:
        views: which ones; None = all.
    """
    for _, run in groupby(range(len(batch.views)) if views is None else views, key=lambda view: batch.views[view].size):
        numbers = list(run)
        yield numbers, torch.cat([batch.pixels(view) for view in numbers])


def view_features(encoder: nn.Module, batch: ImageBatch, views: range | None = None) -> Tensor:
    """Pooled features ``(V, B, D)`` of the views (None = all): one pass for each run of views of one size.

    Batch norm of the encoder sees one run at a time, as in SwAV and DINO.
    """
    parts = [pooled_features(encoder, pixels) for _, pixels in same_size(batch, views)]
    return torch.cat(parts).unflatten(0, (-1, len(batch)))  # [V, B, D]


def check_views(name: str, batch: ImageBatch, views: int) -> None:
    """Raises ValueError where a batch has fewer views than a method compares."""
    if len(batch.views) < views:
        raise ValueError(f"{name} expected at least {views} views of each picture, got {len(batch.views)}: see views() of its recipe")
