"""What every LiDAR method shows while it trains: a sample of features for the monitor, a picture for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from suite3d.masking import sub_generator
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarFeatures

MONITORED_ROWS = 2048
Visuals = Callable[[], dict[str, Any]]


def sample_rows(rows: Tensor, seeds: Sequence[int], limit: int = MONITORED_ROWS) -> Tensor:
    """At most ``limit`` rows, drawn by the batch's first seed, detached."""
    rows = rows.detach()
    if len(rows) <= limit:
        return rows
    chosen = torch.randperm(len(rows), generator=sub_generator(seeds[0], "monitor"))[:limit]
    return rows[chosen.to(rows.device)]


def monitored(features: LidarFeatures, seeds: Sequence[int]) -> Tensor:
    """``(<= 2048, C)`` rows of the deepest level, which is the one that collapses."""
    return sample_rows(features.levels[-1].feats, seeds)


def mask_scene(batch: PointBatch, *, hidden: Tensor, predicted: Tensor | Callable[[], Tensor], cell: float, title: str) -> Visuals:
    """Picture of the batch's first scan, drawn only when asked for.

    Args:
        hidden: ``(K, 3)`` centres of what was hidden in that scan, metres.
        predicted: ``(L, 3)`` reconstructed points, metres, or a function that makes them.
        cell: metres, side of a hidden cell.
    """
    points, hidden = batch.xyz[: int(batch.offsets[1])].detach(), hidden.detach()
    made = predicted.detach() if isinstance(predicted, Tensor) else predicted
    boxes = None if batch.boxes is None else batch.boxes[0]

    def draw() -> dict[str, Any]:
        from suite3d.report.bev import BevScene

        array = lambda tensor: tensor.float().cpu().numpy()  # noqa: E731
        scene = BevScene(
            points=array(points),
            hidden=array(hidden),
            predicted=array(made if isinstance(made, Tensor) else made()),
            boxes=None,
            labels_boxes=None if boxes is None else array(boxes[:, :7]),
            voxel_size=cell,
            title=title,
        )
        return {"reconstruction": scene}

    return draw
