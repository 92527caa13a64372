"""Augmentations: frozen dataclasses called as ``transform(frame, rng) -> frame``; inputs are never changed in place.

Global transforms act on points, boxes, flow and pose together (:mod:`suite3d.pointcloud.data.affine`), so
``points in box``, ``pose @ points`` and ``inverse(meta["augmentation"]) @ points`` mean the same before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.affine import transform_frame
from suite3d.pointcloud.data.frame import Frame

Transform = Callable[[Frame, np.random.Generator], Frame]


def apply_transforms(frame: Frame, transforms: Sequence[Transform], rng: np.random.Generator) -> Frame:
    """All transforms, in order, from one generator."""
    for transform in transforms:
        frame = transform(frame, rng)
    return frame


@dataclass(frozen=True, kw_only=True)
class RandomFlip:
    """Mirror with the given probability. ``axis="x"`` keeps x and negates y (OpenPCDet's "flip along x"); "y" negates x."""

    axis: str = "x"
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y"):
            raise ValueError(f"axis: expected 'x' or 'y', got {self.axis!r}")

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        if rng.random() >= self.probability:
            return frame
        return transform_frame(frame, np.diag([1.0, -1.0, 1.0, 1.0] if self.axis == "x" else [-1.0, 1.0, 1.0, 1.0]))


@dataclass(frozen=True, kw_only=True)
class RandomYaw:
    """Rotate about z by a uniform angle in [low, high] radians."""

    low: float = -np.pi / 4
    high: float = np.pi / 4

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        angle = rng.uniform(self.low, self.high)
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return transform_frame(frame, matrix)


@dataclass(frozen=True, kw_only=True)
class RandomScale:
    """Scale about the sensor by a uniform factor in [low, high]; box sizes and velocities scale too."""

    low: float = 0.95
    high: float = 1.05

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        factor = rng.uniform(self.low, self.high)
        return transform_frame(frame, np.diag([factor, factor, factor, 1.0]))


@dataclass(frozen=True, kw_only=True)
class RandomShift:
    """Translate by a normal vector with standard deviation ``std`` (x, y, z), metres."""

    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        matrix = np.eye(4)
        matrix[:3, 3] = rng.normal(size=3) * self.std
        return transform_frame(frame, matrix)


@dataclass(frozen=True, kw_only=True)
class PointDropout:
    """Drop each point with a probability drawn uniformly from [low, high] once a frame."""

    low: float = 0.0
    high: float = 0.2

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        share = rng.uniform(self.low, self.high)
        return frame.keep_points(rng.random(len(frame.xyz)) >= share)


@dataclass(frozen=True, kw_only=True)
class BeamDropout:
    """Drop whole beams: each with a probability drawn uniformly from [low, high] once a frame.

    Beams are the ``ring`` channel; without one, ``bins`` equal elevation bins between the frame's 0.5 % and 99.5 % quantile of
    elevation (estimated on the frame as it stands, so put this before transforms that move the sensor). At least one beam stays.
    """

    low: float = 0.0
    high: float = 0.5
    bins: int = 64

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        if not len(frame.xyz):
            return frame
        share = rng.uniform(self.low, self.high)
        beam = self._beams(frame)
        count = int(beam.max()) + 1
        keep = rng.random(count) >= share
        keep[beam[rng.integers(len(beam))]] = True  # never all of them
        return frame.keep_points(keep[beam])

    def _beams(self, frame: Frame) -> NDArray[np.int64]:
        if "ring" in frame.channels:
            return np.maximum(frame.feats[:, frame.channels.index("ring")], 0).astype(np.int64)
        elevation = np.arctan2(frame.xyz[:, 2], np.hypot(frame.xyz[:, 0], frame.xyz[:, 1]))
        low, high = np.quantile(elevation, [0.005, 0.995])
        bins = (elevation - low) * (self.bins / max(float(high - low), 1e-6))
        return np.clip(bins, 0, self.bins - 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class RangeFilter:
    """Keep points in the half-open box (x0, y0, z0, x1, y1, z1), and boxes whose centre lies in it (x and y only)."""

    point_range: tuple[float, float, float, float, float, float]

    def __call__(self, frame: Frame, rng: np.random.Generator | None = None) -> Frame:
        low, high = np.array(self.point_range[:3], dtype=np.float32), np.array(self.point_range[3:], dtype=np.float32)
        x, y, z = frame.xyz.T
        keep = (x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1]) & (z >= low[2]) & (z < high[2])
        frame = frame.keep_points(keep)
        if frame.boxes is None:
            return frame
        center = frame.boxes[:, :2]
        inside = (center >= low[:2]) & (center < high[:2])
        return frame.keep_boxes(np.asarray(inside.all(axis=1)))


@dataclass(frozen=True, kw_only=True)
class ShufflePoints:
    """Random order of points, so that "first so many points of a voxel" is an unbiased choice."""

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        return frame.keep_points(rng.permutation(len(frame.xyz)))


@dataclass(frozen=True, kw_only=True)
class MaxPoints:
    """At most ``count`` points, a random subset in the recorded order."""

    count: int

    def __call__(self, frame: Frame, rng: np.random.Generator) -> Frame:
        if len(frame.xyz) <= self.count:
            return frame
        return frame.keep_points(np.sort(rng.choice(len(frame.xyz), self.count, replace=False)))
