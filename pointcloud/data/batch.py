"""Jagged batches of scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suite3d.pointcloud.data.frame import Frame


@dataclass(kw_only=True)
class PointBatch:
    """Scans concatenated along the point axis.

    Attributes:
        xyz: ``(N, 3)`` float32, metres.
        feats: ``(N, C)`` float32, columns named by ``channels``.
        offsets: ``(B + 1,)`` int64; scan b owns rows ``offsets[b]:offsets[b + 1]``.
        channels: names of the columns of ``feats``.
        names: B sample names.
        seeds: B ints; every random choice of a method about scan b is drawn from ``seeds[b]``.
        boxes: B tensors ``(M_b, 7 | 9)`` float32, or None where the data carry no labels.
        labels: B tensors ``(M_b,)`` int64 indices into the recipe's class list, or None.
        poses: ``(B, 4, 4)`` float64 LiDAR-to-world including the augmentation's inverse, or None.
        point_labels: ``(N,)`` int64, or None.
        frames: the frames themselves (host memory) for writers and pictures; not moved by :meth:`to`.
    """

    xyz: Tensor
    feats: Tensor
    offsets: Tensor
    channels: tuple[str, ...]
    names: list[str]
    seeds: list[int]
    boxes: list[Tensor] | None = None
    labels: list[Tensor] | None = None
    poses: Tensor | None = None
    point_labels: Tensor | None = None
    frames: list[Frame] = field(default_factory=list, repr=False)

    @property
    def batch_size(self) -> int:
        return len(self.offsets) - 1

    def batch_index(self) -> Tensor:
        """``(N,)`` int64: the scan each point belongs to."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=self.xyz.device), counts, output_size=len(self.xyz))

    def select_channels(self, channels: Sequence[str]) -> Tensor:
        """``(N, len(channels))`` columns by name. Raises ValueError naming what is missing."""
        missing = [name for name in channels if name not in self.channels]
        if missing:
            raise ValueError(
                f"the encoder wants channels {missing}; these points carry {list(self.channels)}. Set encoder.channels to a subset of those"
            )
        return self.feats[:, [self.channels.index(name) for name in channels]]

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> PointBatch:
        move = lambda value: value.to(device, non_blocking=non_blocking)  # noqa: E731
        return replace(
            self,
            xyz=move(self.xyz),
            feats=move(self.feats),
            offsets=move(self.offsets),
            boxes=None if self.boxes is None else [move(b) for b in self.boxes],
            labels=None if self.labels is None else [move(b) for b in self.labels],
            poses=None if self.poses is None else move(self.poses),
            point_labels=None if self.point_labels is None else move(self.point_labels),
        )

    def pin_memory(self) -> PointBatch:
        pin: Any = lambda value: None if value is None else value.pin_memory()  # noqa: E731
        return replace(self, xyz=pin(self.xyz), feats=pin(self.feats), offsets=pin(self.offsets), point_labels=pin(self.point_labels))


@dataclass(kw_only=True)
class PairBatch:
    """Two aligned views of the same B scenes (two sweeps of a drive, or two augmentations of one sweep).

    Attributes:
        first, second: the views; row b of both shows the same scene.
        second_to_first: ``(B, 4, 4)`` float64, takes points of the second view into the frame of the first,
            augmentations included (they may scale and flip).
        first_rows, second_rows: ``(K,)`` int64 rows into the points of each view that are the same physical point,
            or None for sweeps taken at different times.
        regions: ``(K,)`` int64 region id (unique over the batch, -1 = none) of each shared point, or None.
    """

    first: PointBatch
    second: PointBatch
    second_to_first: Tensor
    first_rows: Tensor | None = None
    second_rows: Tensor | None = None
    regions: Tensor | None = None

    @property
    def names(self) -> list[str]:
        return self.first.names

    @property
    def seeds(self) -> list[int]:
        return self.first.seeds

    @property
    def batch_size(self) -> int:
        return self.first.batch_size

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> PairBatch:
        move = lambda value: None if value is None else value.to(device, non_blocking=non_blocking)  # noqa: E731
        return PairBatch(
            first=self.first.to(device, non_blocking=non_blocking),
            second=self.second.to(device, non_blocking=non_blocking),
            second_to_first=self.second_to_first.to(device, non_blocking=non_blocking),
            first_rows=move(self.first_rows),
            second_rows=move(self.second_rows),
            regions=move(self.regions),
        )


def collate_frames(frames: Sequence[Frame], seeds: Sequence[int], *, class_names: Sequence[str] = ()) -> PointBatch:
    """Concatenate frames; boxes whose class is not in ``class_names`` are dropped.

    Raises:
        ValueError: no frames, or frames whose channels differ.
    """
    if not frames:
        raise ValueError("collate_frames expected at least one frame, got none")
    channels = frames[0].channels
    odd = next((frame for frame in frames if frame.channels != channels), None)
    if odd is not None:
        raise ValueError(f"frames of one batch must share channels: {frames[0].name} has {channels}, {odd.name} has {odd.channels}")
    boxes = labels = None
    if all(frame.boxes is not None for frame in frames):
        index = {name: label for label, name in enumerate(class_names)}
        kept = [frame.keep_boxes(np.array([name in index for name in frame.classes], dtype=bool)) for frame in frames]
        boxes = [torch.from_numpy(np.ascontiguousarray(frame.boxes, dtype=np.float32)) for frame in kept]
        labels = [torch.tensor([index[name] for name in frame.classes], dtype=torch.int64) for frame in kept]
    counts = torch.tensor([0] + [len(frame.xyz) for frame in frames], dtype=torch.int64)
    poses = [frame.pose for frame in frames if frame.pose is not None]
    join = lambda arrays: torch.from_numpy(np.concatenate(arrays))  # noqa: E731
    return PointBatch(
        xyz=join([frame.xyz for frame in frames]),
        feats=join([frame.feats for frame in frames]),
        offsets=counts.cumsum(0),
        channels=channels,
        names=[frame.name for frame in frames],
        seeds=list(seeds),
        boxes=boxes,
        labels=labels,
        poses=torch.from_numpy(np.stack(poses)) if len(poses) == len(frames) else None,
        point_labels=join([frame.point_labels for frame in frames]) if all(frame.point_labels is not None for frame in frames) else None,
        frames=list(frames),
    )
