"""Training samples out of a data set: single frames, or two views of one scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from suite3d.pointcloud.data.batch import PairBatch, PointBatch, collate_frames
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.memory import FrameMemory
from suite3d.pointcloud.data.transforms import RangeFilter, Transform, apply_transforms
from suite3d.source import BadSample

PointRange = tuple[float, float, float, float, float, float]
Regions = Callable[[NDArray[np.float32]], NDArray[np.int64]]


class FrameReader:
    """Frames by position in ``indices``, with chosen channels, augmented, and cropped to a range. Base of both sources.

    Args:
        dataset: where frames come from.
        transforms: augmentations, in order.
        class_names: the recipe's classes; boxes of other classes are dropped when frames are collated.
        indices: frames to use, in this order (None: all).
        channels: feature columns to keep, a subset of the data set's (None: all of them).
        point_range: after the transforms keep only points in this box (and boxes centred in it); None keeps all.
        min_points: frames with fewer points left are bad samples.
        memory_mb: megabytes of frames to keep as they were read, in each process; see :class:`FrameMemory`.

    Raises:
        ValueError: no frames, an index out of range, or a channel the data set lacks.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        transforms: Sequence[Transform] = (),
        *,
        class_names: Sequence[str] = (),
        indices: Sequence[int] | None = None,
        channels: Sequence[str] | None = None,
        point_range: PointRange | None = None,
        min_points: int = 1,
        memory_mb: int = 0,
    ) -> None:
        self.dataset = dataset
        self.memory = FrameMemory(dataset, memory_mb)
        self.transforms = tuple(transforms)
        self.class_names = tuple(class_names)
        self.indices = list(range(len(dataset)) if indices is None else map(int, indices))
        self.channels = dataset.channels if channels is None else tuple(channels)
        self.crop = None if point_range is None else RangeFilter(point_range=point_range)
        self.min_points = max(1, min_points)
        if not self.indices:
            raise ValueError("expected at least one frame, got none")
        if min(self.indices) < 0 or max(self.indices) >= len(dataset):
            raise ValueError(f"indices must lie in [0, {len(dataset)}), got {min(self.indices)}..{max(self.indices)}")
        missing = [name for name in self.channels if name not in dataset.channels]
        if missing:
            raise ValueError(f"data.channels asks for {missing}, the data set has {list(dataset.channels)}. Set it to a subset of those")

    @property
    def provides(self) -> frozenset[str]:
        """What a method can count on; see ``FrameDataset.provides``."""
        return self.dataset.provides

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])

    def read(self, row: int) -> Frame:
        """Data set frame ``row`` with the chosen channels. Raises BadSample."""
        frame = self.memory.read(row)
        if frame.channels == self.channels:
            return frame
        feats = frame.feats[:, [frame.channels.index(name) for name in self.channels]]
        return replace(frame, feats=feats, channels=self.channels)

    def augment(self, frame: Frame, rng: np.random.Generator) -> Frame:
        """Transforms, then the crop. Raises BadSample when fewer than ``min_points`` points are left."""
        before = len(frame.xyz)
        frame = apply_transforms(frame, self.transforms, rng)
        if self.crop is not None:
            frame = self.crop(frame)
        if len(frame.xyz) < self.min_points:
            where = "" if self.crop is None else f" in range {self.crop.point_range}"
            raise BadSample(frame.name, f"{len(frame.xyz)} of {before} points{where} after augmentation, expected at least {self.min_points}")
        return frame

    def batch(self, frames: Sequence[Frame], seeds: Sequence[int]) -> PointBatch:
        """Collated frames. The points live in the batch; ``batch.frames`` keep the rest (boxes, classes, meta) with no points."""
        batch = collate_frames(frames, seeds, class_names=self.class_names)
        nothing = np.zeros(0, dtype=np.int64)
        return replace(batch, frames=[frame.keep_points(nothing) for frame in frames])


class FrameSource(FrameReader):
    """One augmented frame a sample; implements :class:`suite3d.source.Source`. Arguments as for :class:`FrameReader`."""

    def get(self, index: int, rng: np.random.Generator) -> Frame:
        return self.augment(self.read(self.indices[index]), rng)

    def collate(self, samples: list[Frame], seeds: list[int]) -> PointBatch:
        return self.batch(samples, seeds)


@dataclass
class Pair:
    """Two views of one scene; fields as in ``PairBatch``, for one sample."""

    first: Frame
    second: Frame
    second_to_first: NDArray[np.float64]
    first_rows: NDArray[np.int64] | None = None
    second_rows: NDArray[np.int64] | None = None
    regions: NDArray[np.int64] | None = None


class PairSource(FrameReader):
    """Two aligned views a sample; implements :class:`suite3d.source.Source`.

    ``mode="temporal"``: the frame and another one of its sequence at most ``max_gap`` frames away (either side, uniformly), each with its
    own augmentation. ``second_to_first = inv(pose1') @ pose2'`` where the poses include the augmentations.

    ``mode="augment"``: the same frame augmented twice. ``first_rows`` / ``second_rows`` are the points both views kept, and
    ``regions`` (when a callable is given) their segment ids, computed on the recorded points.

    Args:
        mode, max_gap: see above.
        regions: ``xyz (N, 3) -> (N,) int64`` segment ids, -1 = none; only with "augment".
        (the rest as for :class:`FrameReader`)

    Raises:
        ValueError: unknown mode; temporal pairs of a data set without poses or sequences; regions with temporal pairs.
    """

    def __init__(
        self,
        dataset: FrameDataset,
        transforms: Sequence[Transform] = (),
        *,
        mode: Literal["temporal", "augment"] = "temporal",
        max_gap: int = 5,
        regions: Regions | None = None,
        indices: Sequence[int] | None = None,
        channels: Sequence[str] | None = None,
        point_range: PointRange | None = None,
        min_points: int = 1,
        memory_mb: int = 0,
    ) -> None:
        super().__init__(dataset, transforms, indices=indices, channels=channels, point_range=point_range, min_points=min_points, memory_mb=memory_mb)
        if mode not in ("temporal", "augment"):
            raise ValueError(f"mode: expected 'temporal' or 'augment', got {mode!r}")
        self.mode, self.max_gap, self.regions = mode, max_gap, regions
        self._partners: list[list[int]] = []
        if mode == "temporal":
            self._find_partners()

    def _find_partners(self) -> None:
        missing = [name for name in ("poses", "sequences") if name not in self.dataset.provides]
        if missing:
            raise ValueError(
                f"pairs of sweeps need poses and sequences; {type(self.dataset).__name__} has no {' and no '.join(missing)}. Give a data set "
                "with poses (for a folder: poses.txt, 12 numbers a row), or use pairs of augmentations of one sweep (mode 'augment')"
            )
        if self.regions is not None:
            raise ValueError("regions need the same points in both views: use mode 'augment', or no regions")
        if self.max_gap < 1:
            raise ValueError(f"max_gap: expected at least 1 frame, got {self.max_gap}")
        partners: dict[int, list[int]] = {}
        for members in self.dataset.by_sequence(sorted(self.indices)).values():
            for place, row in enumerate(members):
                near = members[max(0, place - self.max_gap) : place + self.max_gap + 1]
                partners[row] = [other for other in near if other != row]
        self.indices = [row for row in self.indices if partners[row]]
        self._partners = [partners[row] for row in self.indices]
        if not self.indices:
            raise ValueError("pairs of sweeps need sequences of at least two frames; every sequence here has one")

    @property
    def provides(self) -> frozenset[str]:
        return self.dataset.provides | {"pairs"}

    def get(self, index: int, rng: np.random.Generator) -> Pair:
        return self._temporal(index, rng) if self.mode == "temporal" else self._augmented(index, rng)

    def _temporal(self, index: int, rng: np.random.Generator) -> Pair:
        choices = self._partners[index]
        other = choices[int(rng.integers(len(choices)))]
        first, second = (self.augment(self.read(row), rng) for row in (self.indices[index], other))
        for frame in (first, second):
            if frame.pose is None:
                raise BadSample(frame.name, "has no pose, and pairs of sweeps need one")
        assert first.pose is not None and second.pose is not None
        return Pair(first, second, np.linalg.inv(first.pose) @ second.pose)

    def _augmented(self, index: int, rng: np.random.Generator) -> Pair:
        frame = self.read(self.indices[index])
        count = len(frame.xyz)
        frame = replace(frame, rows=np.arange(count))
        first, second = self.augment(frame, rng), self.augment(frame, rng)
        matrices = [view.meta.get("augmentation", np.eye(4)) for view in (first, second)]
        place = np.full(count, -1, dtype=np.int64)  # recorded row -> row in the first view
        assert first.rows is not None and second.rows is not None
        real = first.rows >= 0
        place[first.rows[real]] = np.flatnonzero(real)
        second_rows = np.flatnonzero(second.rows >= 0)
        recorded = second.rows[second_rows]
        shared = place[recorded] >= 0
        second_rows, recorded = second_rows[shared], recorded[shared]
        regions = None
        if self.regions is not None:
            segments = np.asarray(self.regions(frame.xyz))
            if segments.shape != (count,):
                raise ValueError(f"regions returned shape {segments.shape} for {count} points, expected one id a point")
            regions = segments[recorded].astype(np.int64)
        return Pair(first, second, matrices[0] @ np.linalg.inv(matrices[1]), place[recorded], second_rows, regions)

    def collate(self, samples: list[Pair], seeds: list[int]) -> PairBatch:
        first = self.batch([pair.first for pair in samples], seeds)
        second = self.batch([pair.second for pair in samples], seeds)
        batch = PairBatch(first=first, second=second, second_to_first=torch.from_numpy(np.stack([pair.second_to_first for pair in samples])))
        if self.mode == "augment":
            batch.first_rows = _join([pair.first_rows for pair in samples], first.offsets[:-1].tolist())
            batch.second_rows = _join([pair.second_rows for pair in samples], second.offsets[:-1].tolist())
            if self.regions is not None:
                batch.regions = _join_regions([pair.regions for pair in samples])
        return batch


def _join(parts: Sequence[NDArray[np.int64] | None], starts: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([part + start for part, start in zip(parts, starts) if part is not None]))


def _join_regions(parts: Sequence[NDArray[np.int64] | None]) -> torch.Tensor:
    """Region ids made unique over the batch; -1 stays."""
    joined, start = [], 0
    for part in parts:
        assert part is not None
        joined.append(np.where(part >= 0, part + start, -1))
        start += int(part.max(initial=-1)) + 1
    return torch.from_numpy(np.concatenate(joined))
