"""Clips as pictures: rows of frames one below the other, and the same side by side as an animation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from suite3d.report.canvas import Canvas
from suite3d.report.font import ADVANCE, HEIGHT

INK = (228, 231, 238)
PAGE = (19, 22, 29)
GAP = 2
SHORTEST_SIDE = 96
"""Frames smaller than this are enlarged by a whole factor."""
MAX_COLUMNS = 16


def draw_strip(rows: Sequence[NDArray[np.uint8]], labels: Sequence[str], *, title: str = "") -> NDArray[np.uint8]:
    """One picture: a row for each clip, time from left to right; of more than 16 frames 16 spread evenly.

    Args:
        rows: clips of one shape ``(T, H, W, 3)`` uint8.
        labels: what each row is.

    Returns:
        ``(H', W', 3)`` uint8.
    """
    clips = _check(rows, labels)
    length = clips[0].shape[0]
    chosen = np.linspace(0, length - 1, min(length, MAX_COLUMNS)).round().astype(int)
    clips = [_enlarge(clip[chosen]) for clip in clips]
    frames, height, width, _ = clips[0].shape
    head, line = (HEIGHT + 8 if title else 0), HEIGHT + 6
    canvas = Canvas((head + len(clips) * (height + line + GAP), max(frames * (width + GAP) - GAP, ADVANCE * len(title) + 8)), background=PAGE)
    canvas.text(4, 4, title, INK)
    for row, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        top = head + row * (height + line + GAP)
        canvas.text(4, top + 3, label, INK)
        for column, frame in enumerate(clip):
            left = column * (width + GAP)
            canvas.pixels[top + line : top + line + height, left : left + width] = frame
    return canvas.image()


def draw_animation(rows: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> NDArray[np.uint8]:
    """``(T, H', W', 3)`` uint8 frames: the clips side by side, each under its label. Arguments as :func:`draw_strip`."""
    clips = [_enlarge(clip) for clip in _check(rows, labels)]
    frames, height, width, _ = clips[0].shape
    line = HEIGHT + 6
    cell = max(width, ADVANCE * max(map(len, labels)) + 8)
    canvas = Canvas((height + line, len(clips) * (cell + GAP) - GAP), background=PAGE)
    for column, label in enumerate(labels):
        canvas.text(column * (cell + GAP) + 4, 3, label, INK)
    moving = np.repeat(canvas.image()[None], frames, axis=0)
    for column, clip in enumerate(clips):
        left = column * (cell + GAP)
        moving[:, line : line + height, left : left + width] = clip
    return moving


def _check(rows: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> list[NDArray[np.uint8]]:
    shapes = {clip.shape for clip in rows}
    if len(rows) != len(labels) or len(shapes) != 1 or any(clip.ndim != 4 or clip.shape[3] != 3 or clip.dtype != np.uint8 for clip in rows):
        raise ValueError(f"expected clips of one shape (T, H, W, 3) uint8, a label for each, got {[clip.shape for clip in rows]} and {list(labels)}")
    return list(rows)


def _enlarge(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(-(-SHORTEST_SIDE // min(clip.shape[1:3])), 1)
    return clip.repeat(factor, axis=1).repeat(factor, axis=2)
