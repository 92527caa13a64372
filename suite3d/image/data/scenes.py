"""Procedural scenes with pixel labels: patches of material on a plain ground, for segmentation without downloads.

The class of a pixel is the material it belongs to (stripes, checks, ...), whose colours, direction, scale and outline are drawn anew for every
object: neither colour nor shape says which class it is, the texture does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.order import stream_seed

MATERIALS = ("ground", "stripes", "checks", "dots", "speckle")
PERIODS = 12
"""Periods of a material across the picture, before each object's own scale."""


@dataclass(kw_only=True)
class SceneConfig:
    """Procedural scenes.

    Attributes:
        train, val: pictures of each split.
        size: side of a picture, pixels.
        objects: fewest and most objects of a picture; later ones stand before earlier ones.
        seed: of everything.
    """

    train: int = 60
    val: int = 30
    size: int = 64
    objects: tuple[int, int] = (2, 4)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.objects[0]) < 1 or self.objects[0] > self.objects[1] or self.size < 16:
            raise ValueError(f"expected at least one picture and object and 16 pixels, got {self}")


class Scenes:
    """Scenes of one split, drawn when they are read; picture i of a split is always the same. A :class:`~suite3d.image.data.segmented.Segmented`."""

    def __init__(self, config: SceneConfig, split: str = "train") -> None:
        if split not in ("train", "val"):
            raise ValueError(f"scenes have the splits train and val, got '{split}'")
        self.config, self.split = config, split

    def __len__(self) -> int:
        return self.config.train if self.split == "train" else self.config.val

    def name(self, index: int) -> str:
        return f"scenes/{self.split}/{index:05d}"

    def picture(self, index: int) -> NDArray[np.uint8]:
        return self._draw(index)[0]

    def labels(self, index: int) -> NDArray[np.int64]:
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """``(S, S, 3)`` uint8 and ``(S, S)`` int64, the number of the material in :data:`MATERIALS`."""
        config, size = self.config, self.config.size
        rng = np.random.default_rng(stream_seed("scene", config.seed, self.split, index))
        place = (np.arange(size) + 0.5) / size - 0.5
        x, y = place[None, :], place[:, None]
        turn = rng.uniform(0, 2 * np.pi)
        slope = 0.5 + 0.7 * (np.cos(turn) * x + np.sin(turn) * y)  # [S, S] in about [0, 1]
        first, second = rng.uniform(0, 255, (2, 3))
        pixels = first + slope[..., None] * 0.3 * (second - first)
        labels = np.zeros((size, size), np.int64)
        for _ in range(rng.integers(config.objects[0], config.objects[1] + 1)):
            material = int(rng.integers(1, len(MATERIALS)))
            middle = rng.uniform(-0.35, 0.35, 2)
            cover = np.clip(0.5 - size * _outline(rng, x - middle[0], y - middle[1]), 0, 1)  # [S, S]
            value = _texture(MATERIALS[material], rng, x, y, size)
            dark, bright = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
            colors = (dark, bright) if rng.random() < 0.5 else (bright, dark)
            pixels += cover[..., None] * (colors[0] + value[..., None] * (colors[1] - colors[0]) - pixels)
            labels[cover >= 0.5] = material
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels


def _outline(rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each point lies outside of a random star-shaped outline about the origin, in widths of the picture; negative inside."""
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    radius = rng.uniform(0.15, 0.28) * np.ones_like(angle)
    for wave in (2, 3, 4):
        radius = radius * (1 + rng.uniform(0, 0.4 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)))
    return distance - radius


def _texture(material: str, rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """``(S, S)`` in [0, 1]: 0 and 1 are an object's two colours."""
    turn, scale = rng.uniform(0, 2 * np.pi), PERIODS * rng.uniform(0.8, 1.25)
    u = 2 * np.pi * (scale * (np.cos(turn) * x + np.sin(turn) * y) + rng.random())
    v = 2 * np.pi * (scale * (np.cos(turn) * y - np.sin(turn) * x) + rng.random())
    if material == "stripes":
        return 0.5 + 0.5 * np.clip(3 * np.sin(u), -1, 1)
    if material == "checks":
        return 0.5 + 0.5 * np.clip(4 * np.sin(u) * np.sin(v), -1, 1)
    if material == "dots":
        return np.clip(0.5 + 2 * (np.sin(u) + np.sin(v) - 1), 0, 1)
    return rng.random((size, size))  # speckle
