"""Views of an object cloud: the augmentations that the field uses, drawn anew for every view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.objects.sets import NORMALS


@dataclass(kw_only=True)
class ObjectViewConfig:
    """One view; the defaults change nothing but the number of points and the scale.

    In this order: unit sphere, crop (and unit sphere again), turn about z, stretch and shift, dropout, ``points`` of what is left, jitter.

    Attributes:
        points: points of the view, drawn at random without repetition; where fewer are left they are repeated as evenly as can be.
        crop: share of the points that a crop keeps, uniform in this range; (1, 1) = no crop.
        crop_shape: ``ball``: those nearest to a random point of the object; ``half_space``: those furthest along a random direction.
        yaw: the turn about z is uniform in [-yaw, yaw] radians.
        scale: range of the uniform scale factor, or with ``axis_scale`` of one factor an axis.
        axis_scale: Point-MAE's stretch: each axis by itself.
        shift: each coordinate of the shift is uniform in [-shift, shift] radii.
        dropout: largest share of points dropped, the share uniform from 0.
        jitter: deviation of the noise on every coordinate, radii; cut at ``jitter_limit``.
    """

    points: int = 1024
    crop: tuple[float, float] = (1.0, 1.0)
    crop_shape: Literal["ball", "half_space"] = "ball"
    yaw: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    axis_scale: bool = False
    shift: float = 0.0
    dropout: float = 0.0
    jitter: float = 0.0
    jitter_limit: float = 0.05

    def __post_init__(self) -> None:
        if self.points < 1 or not 0 < self.crop[0] <= self.crop[1] <= 1 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"expected points >= 1, an increasing crop in (0, 1] and an increasing positive scale, got {self}")
        if not 0 <= self.dropout < 1 or min(self.yaw, self.shift, self.jitter, self.jitter_limit) < 0:
            raise ValueError(f"expected a dropout in [0, 1) and yaw, shift, jitter >= 0, got {self}")


def draw_view(frame: Frame, config: ObjectViewConfig, rng: np.random.Generator) -> Frame:
    """A view of an object with ``config.points`` points; the normals turn along.

    Raises:
        ValueError: an object without a point.
    """
    if not len(frame.xyz):
        raise ValueError(f"{frame.name}: expected an object with points, got none")
    view = unit_sphere(frame)
    if config.crop[0] < 1:
        kept = crop(view.xyz, rng.uniform(*config.crop), config.crop_shape, rng)
        view = unit_sphere(view.keep_points(kept))
    view = moved(view, *_draw_affine(config, rng))
    if config.dropout > 0:
        keep = rng.random(len(view.xyz)) >= rng.uniform(0, config.dropout)
        keep[rng.integers(len(keep))] = True  # never all of them
        view = view.keep_points(keep)
    view = view.keep_points(choose(len(view.xyz), config.points, rng))
    if config.jitter > 0:
        noise = np.clip(config.jitter * rng.standard_normal(view.xyz.shape), -config.jitter_limit, config.jitter_limit)
        view = replace(view, xyz=view.xyz + noise.astype(np.float32))
    return view


def unit_sphere(frame: Frame) -> Frame:
    """The mean at the origin, the furthest point at distance 1 (an object of one place stays a point)."""
    centred = frame.xyz - frame.xyz.mean(axis=0, dtype=np.float64).astype(np.float32)
    radius = float(np.sqrt(np.einsum("nd,nd->n", centred, centred).max()))
    return replace(frame, xyz=centred / np.float32(radius) if radius > 1e-12 else centred)


def crop(xyz: NDArray[np.float32], share: float, shape: Literal["ball", "half_space"], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows, ascending, of a contiguous part of ``xyz (N, 3)``: ``share * N`` of them rounded half up, at least one.

    ``ball``: nearest to a random point of the cloud, as the small views of scene-level self-distillation (Sonata, CVPR 2025).
    ``half_space``: furthest along a direction uniform on the sphere, as a cut through the object.
    """
    count = min(max(int(share * len(xyz) + 0.5), 1), len(xyz))
    if shape == "ball":
        distance = np.square(xyz - xyz[rng.integers(len(xyz))]).sum(axis=1)
    else:
        distance = -(xyz @ rng.standard_normal(3).astype(np.float32))  # the length of the direction does not change the order
    return np.sort(np.argpartition(distance, count - 1)[:count])


def choose(available: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``wanted`` rows of ``available``: all different where there are enough, else each as often as the others or once more."""
    rounds, rest = divmod(wanted, available)
    parts = [np.arange(available)] * rounds + [rng.choice(available, rest, replace=False)]
    return np.concatenate(parts).astype(np.int64)


def moved(frame: Frame, linear: NDArray[np.float64], shift: NDArray[np.float64]) -> Frame:
    """Points through ``x -> linear x + shift``, normals through the inverse transpose, made unit again."""
    xyz = (frame.xyz @ linear.T + shift).astype(np.float32)
    if not set(NORMALS) <= set(frame.channels):
        return replace(frame, xyz=xyz)
    columns = [frame.channels.index(name) for name in NORMALS]
    feats = frame.feats.copy()
    turned = feats[:, columns] @ np.linalg.inv(linear)
    feats[:, columns] = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
    return replace(frame, xyz=xyz, feats=feats)


def _draw_affine(config: ObjectViewConfig, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angle = rng.uniform(-config.yaw, config.yaw)
    turn = np.array([(np.cos(angle), -np.sin(angle), 0.0), (np.sin(angle), np.cos(angle), 0.0), (0.0, 0.0, 1.0)])
    factors = rng.uniform(*config.scale, 3) if config.axis_scale else np.full(3, rng.uniform(*config.scale))
    return np.diag(factors) @ turn, rng.uniform(-config.shift, config.shift, 3)
