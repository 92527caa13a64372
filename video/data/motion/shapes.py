"""Textured shapes on a textured background, drawn with numpy: how a state of the motion set looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORMS = ("disc", "square", "triangle", "bar", "ring", "cross")
TEXTURES = ("stripes", "checks", "blobs", "gradient")
RANGE = 2.2
"""Largest over smallest radius in the size coordinate."""
FADE = 0.12
"""Share of the size range at each end over which a shape fades, so that it does not jump from largest to smallest."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Everything about a shape that is not its state.

    Attributes:
        form: one of :data:`FORMS`. texture: one of :data:`TEXTURES`.
        radius: geometric mean radius, share of the picture's width.
        colors: ``(2, 3)`` RGB in 0 to 255 the texture runs between.
        waves: ``(3, 3)`` direction (x, y) in cycles per radius and phase of the texture's waves.
    """

    form: str
    texture: str
    radius: float
    colors: NDArray[np.float32]
    waves: NDArray[np.float32]


def draw_look(rng: np.random.Generator) -> Look:
    """A random look. The two colours differ clearly in brightness, so that the texture shows."""
    angle = rng.uniform(0, 2 * np.pi)
    directions = angle + np.array([0.0, np.pi / 2, rng.uniform(0.6, 2.5)])
    cycles = rng.uniform(0.45, 1.0, 3)
    waves = np.stack([np.cos(directions) * cycles, np.sin(directions) * cycles, rng.uniform(0, 1, 3)], axis=1)
    dark, bright = rng.uniform(0, 110, 3), rng.uniform(145, 255, 3)
    colors = np.stack([dark, bright] if rng.random() < 0.5 else [bright, dark])
    return Look(
        form=FORMS[rng.integers(len(FORMS))],
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        radius=float(rng.uniform(0.15, 0.22)),
        colors=colors.astype(np.float32),
        waves=waves.astype(np.float32),
    )


def background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """``(size, size, 3)`` soft random pattern of medium contrast."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    waves = rng.uniform(-3, 3, (4, 2))
    value = sum(np.sin(2 * np.pi * (a * x + b * y + c)) for (a, b), c in zip(waves, rng.uniform(0, 1, 4), strict=True)) / 4
    low, high = rng.uniform(40, 170, 3), rng.uniform(80, 215, 3)
    return (low + (0.5 + 0.5 * value[..., None]) * (high - low)).astype(np.float32)


def render(states: NDArray[np.float64], looks: list[Look], ground: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``(T, N, 4)`` states of N shapes, drawn in order over ``ground (S, S, 3)`` -> ``(T, S, S, 3)`` uint8.

    What leaves the picture on one side enters it on the other. Edges are anti-aliased.
    """
    size = len(ground)
    frames = np.repeat(ground[None], len(states), axis=0)
    for shape, look in enumerate(looks):
        _draw(frames, states[:, shape], look, size)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _draw(frames: NDArray[np.float32], states: NDArray[np.float64], look: Look, size: int) -> None:
    x, y, angle, phase = states.T  # [T] each
    radius = look.radius * size * RANGE ** (phase - 0.5)  # pixels
    reach = int(np.ceil(look.radius * size * RANGE**0.5)) + 2
    near = np.arange(-reach, reach + 1)
    left, top = np.floor(x * size).astype(np.int64), np.floor(y * size).astype(np.int64)
    dx = (near[None] + 0.5 + left[:, None] - x[:, None] * size).astype(np.float32)[:, None, :]  # [T, 1, K]
    dy = (near[None] + 0.5 + top[:, None] - y[:, None] * size).astype(np.float32)[:, :, None]  # [T, K, 1]
    cos, sin = (f(2 * np.pi * angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    scale = radius.astype(np.float32)[:, None, None]
    u, v = (dx * cos + dy * sin) / scale, (dy * cos - dx * sin) / scale  # [T, K, K] in radii, turning clockwise on the screen
    fade = np.clip(np.minimum(phase, 1 - phase) / FADE, 0, 1).astype(np.float32)[:, None, None]
    cover = np.clip(0.5 - _distance(look.form, u, v) * scale, 0, 1) * fade
    color = look.colors[0] + _texture(look, u, v)[..., None] * (look.colors[1] - look.colors[0])
    time = np.arange(len(states))[:, None, None]
    rows, columns = ((top[:, None] + near) % size)[:, :, None], ((left[:, None] + near) % size)[:, None, :]
    under = frames[time, rows, columns]  # [T, K, K, 3]
    frames[time, rows, columns] = under + cover[..., None] * (color - under)


def _distance(form: str, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed distance to the outline in radii (exact or a lower bound), negative inside. Every form fits in the unit disc."""
    if form == "disc":
        return np.asarray(np.hypot(u, v) - 1, dtype=np.float32)
    if form == "ring":
        return np.asarray(np.abs(np.hypot(u, v) - 0.7) - 0.3, dtype=np.float32)
    if form == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.7
    if form == "bar":
        return np.maximum(np.abs(u) - 0.92, np.abs(v) - 0.38)
    if form == "cross":
        long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        return np.maximum(long - 0.9, short - 0.32)
    return np.maximum(v - 0.5, np.abs(u) * np.float32(np.sqrt(3) / 2) - v / 2 - 0.5)  # triangle, inscribed


def _texture(look: Look, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Value in [0, 1] at every point of the shape; it turns and grows with the shape."""
    first, second, third = (np.sin(2 * np.pi * (a * u + b * v + c)) for a, b, c in look.waves)
    if look.texture == "stripes":
        return 0.5 + 0.5 * np.clip(3 * first, -1, 1)
    if look.texture == "checks":
        return 0.5 + 0.5 * np.clip(4 * first * second, -1, 1)
    if look.texture == "blobs":
        return np.clip(0.5 + (first + second + third) / 4, 0, 1)
    a, b, _ = look.waves[0]
    return np.clip(0.5 + (a * u + b * v) / (2 * np.hypot(a, b)), 0, 1)
