"""Procedural fractal pictures: an endless, licence-free set in which a class is a system of affine maps.

A class is an iterated function system; a picture of it is drawn by the chaos game from maps that are slightly moved, turned about, mirrored,
in random colours on a random background. Colour and pose therefore say nothing about the class, the shape does.

Maps are drawn by their singular values, with the sum that keeps the picture neither a point nor a smear (Anderson and Farrell, "Improving
Fractal Pre-training", WACV 2022, section 3; fractal pictures for pretraining: Kataoka et al., "Pre-training without Natural Images", ACCV 2020).
"""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from suite3d.engine.order import stream_seed
from suite3d.image.data.sets import ImageSet

WARM_UP = 50
"""Steps of the chaos game before a point counts."""


KEPT_BYTES = 128 << 20
"""Drawn pictures that a process keeps."""


@dataclass(kw_only=True)
class FractalConfig:
    """Fractal pictures.

    Attributes:
        classes: systems of maps.
        train, val: pictures of each class.
        size: side of a picture, pixels.
        points: points of the chaos game.
        wobble: deviation of the entries of the maps between pictures of a class.
        seed: of everything.
    """

    classes: int = 20
    train: int = 100
    val: int = 25
    size: int = 64
    points: int = 20000
    wobble: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.classes, self.train, self.val, self.size, self.points) < 1:
            raise ValueError(f"expected positive numbers of classes, pictures, pixels and points, got {self}")


class Fractals(ImageSet):
    """Fractal pictures of one split, drawn when they are first read; picture i of a split is always the same.

    Two pictures of the same scene (:meth:`pairs`) are two cameras on one fractal: the same points and colours, turned, moved and zoomed.
    """

    def __init__(self, config: FractalConfig, split: str = "train") -> None:
        if split not in ("train", "val"):
            raise ValueError(f"fractals have the splits train and val, got '{split}'")
        self.config, self.split = config, split
        self.classes = tuple(f"fractal {number}" for number in range(config.classes))
        self._drawn = _kept(astuple(config), split)
        self.systems = [draw_system(np.random.default_rng(stream_seed("fractal class", config.seed, number))) for number in range(config.classes)]

    def __len__(self) -> int:
        return self.config.classes * (self.config.train if self.split == "train" else self.config.val)

    def name(self, index: int) -> str:
        return f"fractals/{self.split}/{index % self.config.classes}/{index // self.config.classes}"

    def label(self, index: int) -> int | None:
        return index % self.config.classes

    def read(self, index: int) -> NDArray[np.uint8]:
        """Drawn once, then kept (up to :data:`KEPT_BYTES` in each process): drawing takes longer than a small model's step."""
        picture = self._drawn.get(index)
        if picture is None:
            picture = self._draw(index, np.eye(2), np.zeros(2))
            if (len(self._drawn) + 1) * picture.nbytes <= KEPT_BYTES:
                self._drawn[index] = picture
        return picture

    def pairs(self, index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        angle, zoom = rng.uniform(-0.5, 0.5), rng.uniform(0.8, 1.25)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return self._draw(index, turn, rng.uniform(-0.15, 0.15, 2))

    def _draw(self, index: int, camera: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.uint8]:
        config = self.config
        rng = np.random.default_rng(stream_seed("fractal", config.seed, self.split, index))
        maps, weights = self.systems[index % config.classes]
        maps = maps + config.wobble * rng.standard_normal(maps.shape)
        picks = rng.choice(len(maps), size=config.points + WARM_UP, p=weights)
        points, last = chaos_game(maps, picks)[WARM_UP:], picks[WARM_UP:]
        low, high = np.quantile(points, 0.01, axis=0), np.quantile(points, 0.99, axis=0)
        points = (points - (low + high) / 2) / max(float((high - low).max()), 1e-9)  # about [-1/2, 1/2]
        angle = rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            turn = turn * np.array([1.0, -1.0])
        points = points @ (camera @ turn).T * rng.uniform(0.75, 0.95) + shift
        tints = rng.uniform(60, 255, (len(maps), 3))
        ground = rng.uniform(0, 60, 3) + np.linspace(0, rng.uniform(0, 60), config.size)[:, None]  # [size, 3] a gradient
        return paint(points, last, tints, np.repeat(ground[:, None], config.size, axis=1))


@functools.cache
def _kept(config: tuple[Any, ...], split: str) -> dict[int, NDArray[np.uint8]]:
    """What a process has drawn, shared by all that read the same pictures: training, probe, evaluation."""
    return {}


def draw_system(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maps ``(N, 2, 3)`` of a system and the probability ``(N,)`` of each, which follows its area.

    Singular values are drawn so that ``sum of (larger + 2 smaller)`` over the N maps lies in [(5 + N) / 2, (6 + N) / 2]: such systems fill the
    picture well (Anderson and Farrell, section 3.2).
    """
    count = int(rng.integers(2, 7))
    wanted = rng.uniform((5 + count) / 2, (6 + count) / 2)
    values = rng.uniform(0.2, 1.0, (count, 2))
    values = np.sort(values, axis=1)[:, ::-1]  # larger first
    for _ in range(60):  # scale towards the wanted sum, below 1
        values = np.clip(values * (wanted / (values @ np.array([1.0, 2.0])).sum()), 0.02, 0.98)
    first, second = rng.uniform(-np.pi, np.pi, (2, count))
    flips = rng.choice([-1.0, 1.0], (count, 2))
    maps = np.empty((count, 2, 3))
    for row in range(count):
        maps[row, :, :2] = _turn(first[row]) @ np.diag(values[row]) @ _turn(second[row]) @ np.diag(flips[row])
    maps[:, :, 2] = rng.uniform(-1, 1, (count, 2))
    area = np.abs(np.linalg.det(maps[:, :, :2])) + 0.01
    return maps, area / area.sum()


def _turn(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def chaos_game(maps: NDArray[np.float64], picks: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(count, 2)`` points of the attractor: where the maps ``picks (count,)`` lead one after the other; bounded to [-100, 100]."""
    points = np.empty((len(picks), 2))
    x = y = 0.0
    for step in range(len(picks)):
        m = maps[picks[step]]
        x, y = m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]
        x, y = min(max(x, -100.0), 100.0), min(max(y, -100.0), 100.0)
        points[step, 0], points[step, 1] = x, y
    return points


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def paint(points: NDArray[np.float64], last: NDArray[np.int64], tints: NDArray[np.float64], ground: NDArray[np.float64]) -> NDArray[np.uint8]:
    """``(S, S, 3)`` uint8: every pixel that was hit takes the mean tint of its points, brighter with their number."""
    size = len(ground)
    total, hits = np.zeros((size, size, 3)), np.zeros((size, size))
    for i in range(len(points)):
        column, row = int((points[i, 0] + 0.5) * size), int((points[i, 1] + 0.5) * size)
        if 0 <= column < size and 0 <= row < size:
            hits[row, column] += 1
            total[row, column] += tints[last[i]]
    picture = np.empty((size, size, 3), np.uint8)
    most = np.log(1 + hits.max())
    for row in range(size):
        for column in range(size):
            share = 0.0 if hits[row, column] == 0 else 0.4 + 0.6 * np.log(1 + hits[row, column]) / most
            for channel in range(3):
                tint = total[row, column, channel] / max(hits[row, column], 1.0)
                picture[row, column, channel] = int(min(max(share * tint + (1 - share) * ground[row, column, channel], 0.0), 255.0))
    return picture
