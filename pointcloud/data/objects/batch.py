"""A batch of objects: views of each, jagged as every point batch of this project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from suite3d.pointcloud.data.batch import PointBatch


@dataclass(kw_only=True)
class ObjectBatch:
    """B objects with V views each.

    Attributes:
        views: V of them; cloud b of each shows object b.
        labels: ``(B,)`` int64 class, -1 = none. Pretraining never reads them.
    """

    views: list[PointBatch]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        return self.views[0].names

    @property
    def seeds(self) -> list[int]:
        """B seeds, of which everything random about an object is drawn."""
        return self.views[0].seeds

    def to(self, device: torch.device | str) -> ObjectBatch:
        return self._map(lambda view: view.to(device), lambda labels: labels.to(device, non_blocking=True))

    def pin_memory(self) -> ObjectBatch:
        return self._map(lambda view: view.pin_memory(), lambda labels: labels.pin_memory())

    def _map(self, views: Callable[[PointBatch], PointBatch], labels: Callable[[Tensor], Any]) -> ObjectBatch:
        return ObjectBatch(views=[views(view) for view in self.views], labels=labels(self.labels))

    def runs(self, views: range | None = None) -> Iterator[tuple[list[int], PointBatch]]:
        """Runs of neighbouring views with as many points each, and their clouds as one batch, view after view.

        Args:
            views: which ones; None = all.
        """
        for _, run in groupby(range(len(self.views)) if views is None else views, key=lambda view: len(self.views[view].xyz)):
            numbers = list(run)
            yield numbers, join_batches([self.views[number] for number in numbers])


def join_batches(parts: Sequence[PointBatch]) -> PointBatch:
    """The clouds of several batches as one. Raises ValueError for none, or for channels that differ."""
    if not parts or len({part.channels for part in parts}) > 1:
        raise ValueError(f"join_batches expected batches of the same channels, got {[part.channels for part in parts]}")
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.xyz))
    ends = [part.offsets[1:] + start for part, start in zip(parts, starts[:-1], strict=True)]
    return replace(
        parts[0],
        xyz=torch.cat([part.xyz for part in parts]),
        feats=torch.cat([part.feats for part in parts]),
        offsets=torch.cat([parts[0].offsets[:1], *ends]),
        names=[name for part in parts for name in part.names],
        seeds=[seed for part in parts for seed in part.seeds],
        frames=[],
    )
