"""Running an encoder over the views of a batch; neighbouring views of one size go through it together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from suite3d.nn.pooling import pooled_features


class Views(Protocol):
    """B samples with V views each: pictures, object clouds."""

    @property
    def views(self) -> Sequence[Any]:
        """One entry a view."""

    def __len__(self) -> int:
        """B."""

    def runs(self, views: range | None = None) -> Iterator[tuple[list[int], Any]]:
        """Runs of neighbouring views (None = all) of one size, and what an encoder reads of them: V * B samples, view after view."""


def view_features(encoder: nn.Module, batch: Views, views: range | None = None) -> Tensor:
    """Pooled features ``(V, B, D)`` of the views (None = all): one pass for each run of views of one size.

    Batch norm of the encoder sees one run at a time, as in SwAV and DINO.
    """
    parts = [pooled_features(encoder, inputs) for _, inputs in batch.runs(views)]
    return torch.cat(parts).unflatten(0, (-1, len(batch)))  # [V, B, D]


def check_views(name: str, batch: Views, views: int) -> None:
    """Raises ValueError where a batch has fewer views than a method compares."""
    if len(batch.views) < views:
        raise ValueError(f"{name} expected at least {views} views of each sample, got {len(batch.views)}: see views() of its recipe")
