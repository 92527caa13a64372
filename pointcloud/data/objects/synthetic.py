"""Procedural object clouds (synthetic): labelled shapes without a file, so that every recipe runs out of the box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.order import stream_seed
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.objects.catalogue import CATALOGUE
from suite3d.pointcloud.data.objects.mesh import sample_surface
from suite3d.pointcloud.data.objects.sets import NORMALS, ObjectSet


@dataclass(kw_only=True)
class ShapeConfig:
    """The procedural shapes.

    Attributes:
        classes: how many of the fifteen, from the first on.
        train, val: objects of each class.
        points: of an object.
        stretch: each axis is stretched by a factor between 1 / (1 + stretch) and 1 + stretch.
        tilt: deviation of the angle about a random axis by which an object leans, radians; the angle about z is any.
        noise: deviation of the points from the surface, in radii of the object.
        seed: of everything.
    """

    classes: int = 15
    train: int = 100
    val: int = 25
    points: int = 2048
    stretch: float = 0.25
    tilt: float = 0.1
    noise: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= len(CATALOGUE) or min(self.train, self.val, self.points) < 1:
            raise ValueError(f"expected 1 to {len(CATALOGUE)} classes and positive numbers of objects and points, got {self}")
        if min(self.stretch, self.tilt, self.noise) < 0:
            raise ValueError(f"stretch, tilt and noise expected >= 0, got {self.stretch}, {self.tilt}, {self.noise}")


class Shapes(ObjectSet):
    """Procedural objects of one split, made when they are read: object i of a split is a pure function of (seed, split, i).

    Superquadrics, lathed and extruded shapes and things put together of them, with random proportions, stretch, pose and noise; the class is
    the kind of shape and nothing else. They carry their normals.

    Raises:
        ValueError: another split than train and val.
    """

    channels = NORMALS

    def __init__(self, config: ShapeConfig, part: str = "train") -> None:
        if part not in ("train", "val"):
            raise ValueError(f"the shapes have the splits train and val, got '{part}'")
        self.config, self.part = config, part
        self.classes = tuple(kind.__name__ for kind in CATALOGUE[: config.classes])

    def __len__(self) -> int:
        return self.config.classes * (self.config.train if self.part == "train" else self.config.val)

    def name(self, index: int) -> str:
        return f"shapes/{self.part}/{self.classes[index % self.config.classes]}/{index // self.config.classes:04d}"

    def label(self, index: int) -> int | None:
        return index % self.config.classes

    def frame(self, index: int) -> Frame:
        config, name = self.config, self.name(index)
        rng = np.random.default_rng(stream_seed("shape", config.seed, self.part, index))
        mesh = CATALOGUE[index % config.classes](rng)
        factors = np.exp(rng.uniform(-1, 1, 3) * np.log1p(config.stretch))
        xyz, normals = sample_surface(mesh.moved(_pose(rng, config.tilt) @ np.diag(factors)), config.points, rng)
        radius = float(np.linalg.norm(xyz - xyz.mean(axis=0), axis=1).max())
        xyz = xyz + (config.noise * radius * rng.standard_normal(xyz.shape)).astype(np.float32)
        return Frame(name=name, sequence=name, xyz=xyz, feats=normals, channels=self.channels)


def _pose(rng: np.random.Generator, tilt: float) -> NDArray[np.float64]:
    """Any turn about z after a lean by a normal angle about a horizontal axis."""
    lean, way, turn = tilt * rng.standard_normal(), rng.uniform(-np.pi, np.pi), rng.uniform(-np.pi, np.pi)
    about_x = np.array([(1, 0, 0), (0, np.cos(lean), -np.sin(lean)), (0, np.sin(lean), np.cos(lean))])
    first, last = _about_z(way), _about_z(turn)
    return last @ first @ about_x @ first.T


def _about_z(angle: float) -> NDArray[np.float64]:
    return np.array([(np.cos(angle), -np.sin(angle), 0), (np.sin(angle), np.cos(angle), 0), (0, 0, 1)])
