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


@dataclass(frozen=True, kw_only=True)
class Ground:
    """An endless pattern behind the shapes that moves as they do.

    Attributes:
        colors: ``(2, 3)`` RGB in 0 to 255 the pattern runs between.
        waves: ``(L, K, 3)`` for each of L nested layers K waves: direction (x, y) in cycles per width of the picture, and phase.
    """

    colors: NDArray[np.float32]
    waves: NDArray[np.float32]


def draw_ground(rng: np.random.Generator, *, layers: int, waves: int = 4) -> Ground:
    """A random pattern; ``layers`` must exceed the size ranges that a clip runs through by two."""
    angle, cycles = rng.uniform(0, 2 * np.pi, (layers, waves)), rng.uniform(0.5, 1.3, (layers, waves))
    drawn = np.stack([np.cos(angle) * cycles, np.sin(angle) * cycles, rng.uniform(0, 1, (layers, waves))], axis=-1)
    low, high = rng.uniform(20, 120, 3), rng.uniform(135, 235, 3)
    return Ground(colors=np.stack([low, high]).astype(np.float32), waves=drawn.astype(np.float32))


def render(states: NDArray[np.float64], ground_states: NDArray[np.float64], looks: list[Look], ground: Ground, size: int) -> NDArray[np.uint8]:
    """``(T, N, 4)`` states of N shapes, drawn in order over the ground in its states ``(T, 4)`` -> ``(T, size, size, 3)`` uint8.

    A shape that leaves the picture on one side enters it on the other. Edges are anti-aliased. Only the fraction of a shape's state counts;
    of the ground's size coordinate the whole part says which layers are seen.
    """
    frames = _draw_ground(ground, ground_states, size)
    for shape, look in enumerate(looks):
        _draw(frames, states[:, shape] % 1.0, look, size)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _draw_ground(ground: Ground, states: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Two layers, one :data:`RANGE` times the other. As the picture grows the larger fades away and a new smaller one comes in, so that the
    pattern looks alike at every time. It turns and grows about the middle of the picture."""
    moved, turn, grown = states[:, :2].astype(np.float32), (2 * np.pi * states[:, 2]).astype(np.float32), states[:, 3]
    layer = np.floor(grown).astype(np.int64)
    phase = (grown - layer).astype(np.float32)
    place = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    right, down = place[None, None, :] - moved[:, 0, None, None], place[None, :, None] - moved[:, 1, None, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    u, v = right * cos + down * sin, down * cos - right * sin  # [T, S, S]
    value = np.zeros_like(u)
    for older, weight in ((0, np.cos(0.5 * np.pi * phase)), (1, np.sin(0.5 * np.pi * phase))):
        scale = RANGE ** (phase - older)
        for wave in np.moveaxis(ground.waves[(-layer - older) % len(ground.waves)], 1, 0):  # [T, 3] each
            across, along = (wave[:, axis] / scale for axis in (0, 1))
            angle = 2 * np.pi * (across[:, None, None] * u + along[:, None, None] * v + wave[:, 2, None, None])
            value += weight[:, None, None] * np.sin(angle)
    value = np.clip(0.5 + value / np.sqrt(4 * ground.waves.shape[1]), 0, 1)
    return (ground.colors[0] + value[..., None] * (ground.colors[1] - ground.colors[0])).astype(np.float32)


def draw_masks(states: NDArray[np.float64], looks: list[Look], size: int) -> NDArray[np.uint8]:
    """``(T, N, 4)`` states, as in :func:`render` -> ``(T, size, size)`` uint8: 0 = ground, 1 to N = the shape that covers at least half of the
    pixel and stands before the others. A shape that has faded to less than half is not there."""
    masks = np.zeros((len(states), size, size), np.uint8)
    for shape, look in enumerate(looks):
        place, cover, _, _ = _cover(states[:, shape] % 1.0, look, size)
        masks[place] = np.where(cover >= 0.5, np.uint8(shape + 1), masks[place])
    return masks


def _draw(frames: NDArray[np.float32], states: NDArray[np.float64], look: Look, size: int) -> None:
    place, cover, u, v = _cover(states, look, size)
    color = look.colors[0] + _texture(look, u, v)[..., None] * (look.colors[1] - look.colors[0])
    under = frames[place]  # [T, K, K, 3]
    frames[place] = under + cover[..., None] * (color - under)


Place = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _cover(states: NDArray[np.float64], look: Look, size: int) -> tuple[Place, NDArray[np.floating], NDArray[np.float32], NDArray[np.float32]]:
    """Of the square around a shape: which pixels it is (an index of the frames), how much of each the shape covers, and where they are in radii."""
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
    time = np.arange(len(states))[:, None, None]
    rows, columns = ((top[:, None] + near) % size)[:, :, None], ((left[:, None] + near) % size)[:, None, :]
    return (time, rows, columns), cover, u, v


def _distance(form: str, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.floating]:
    """Signed distance to the outline in radii (exact or a lower bound), negative inside. Every form fits in the unit disc."""
    if form == "disc":
        return np.hypot(u, v) - 1
    if form == "ring":
        return np.abs(np.hypot(u, v) - 0.7) - 0.3
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
