"""A small anti-aliased raster canvas in numpy: points, lines, polygons, text."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.report.font import text_mask

Color = tuple[int, int, int]


class Canvas:
    """An RGB picture that is drawn on. Pixel (column, row) covers the square from there to (column + 1, row + 1).

    Args:
        image: ``(H, W, 3)`` uint8 to draw over (copied), or (height, width) for a plain one.
        background: colour of a plain one.
    """

    def __init__(self, image: NDArray[np.uint8] | tuple[int, int], background: Color = (0, 0, 0)) -> None:
        if isinstance(image, tuple):
            self.pixels = np.empty((*image, 3), dtype=np.float32)
            self.pixels[:] = background
        else:
            if image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"expected an (H, W, 3) image, got {image.shape}")
            self.pixels = image.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def image(self) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8."""
        return np.clip(np.rint(self.pixels), 0, 255).astype(np.uint8)

    def blend(self, rows: slice, columns: slice, coverage: NDArray[np.floating], color: Color) -> None:
        """Lay ``color`` over a window with ``coverage`` in [0, 1]."""
        window = self.pixels[rows, columns]
        window += coverage[..., None].astype(np.float32) * (np.asarray(color, dtype=np.float32) - window)

    def rectangle(self, x: float, y: float, width: float, height: float, color: Color, *, opacity: float = 1.0) -> None:
        """Filled, axis aligned, to whole pixels."""
        rows, columns = slice(max(round(y), 0), max(round(y + height), 0)), slice(max(round(x), 0), max(round(x + width), 0))
        self.blend(rows, columns, np.full(self.pixels[rows, columns].shape[:2], opacity, dtype=np.float32), color)

    def points(self, xy: ArrayLike, colors: ArrayLike, *, size: float = 1.0, opacity: float = 1.0) -> None:
        """Discs of ``size`` pixels at ``(N, 2)`` positions (x right, y down); where they meet their colours mix.

        ``colors`` is one colour or ``(N, 3)``.
        """
        position = np.asarray(xy, dtype=np.float32).reshape(-1, 2)
        tint = np.broadcast_to(np.asarray(colors, dtype=np.float32), (len(position), 3))
        height, width = self.shape
        weight, mixed = np.zeros(height * width, dtype=np.float64), np.zeros((height * width, 3), dtype=np.float64)
        reach = int(np.ceil(size / 2 + 0.5))
        near = ((position > -reach) & (position < np.array([width + reach, height + reach], dtype=np.float32))).all(axis=1)
        position, tint = position[near], tint[near]
        corner = np.floor(position).astype(np.int64)
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                column, row = corner[:, 0] + right, corner[:, 1] + down
                distance = np.hypot(column + 0.5 - position[:, 0], row + 0.5 - position[:, 1])
                cover = np.clip(size / 2 + 0.5 - distance, 0, 1)
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (cover > 0)
                cell = row[inside] * width + column[inside]
                weight += np.bincount(cell, weights=cover[inside], minlength=height * width)
                for channel in range(3):
                    mixed[:, channel] += np.bincount(cell, weights=cover[inside] * tint[inside, channel], minlength=height * width)
        touched = weight > 0
        flat = self.pixels.reshape(-1, 3)
        alpha = (opacity * np.minimum(weight[touched], 1.0))[:, None]
        flat[touched] += alpha * (mixed[touched] / weight[touched, None] - flat[touched])

    def line(self, start: ArrayLike, end: ArrayLike, color: Color, *, width: float = 1.0, opacity: float = 1.0) -> None:
        """A segment with round ends, clipped to the picture."""
        self._capsules(np.concatenate([np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)])[None], color, width, opacity)

    def polyline(self, points: ArrayLike, color: Color, *, width: float = 1.0, opacity: float = 1.0, closed: bool = False) -> None:
        """Connected segments through ``(N, 2)`` points; joints are not laid over twice."""
        xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        following = np.roll(xy, -1, axis=0)
        segments = np.concatenate([xy, following], axis=1)
        self._capsules(segments if closed else segments[:-1], color, width, opacity)

    def _capsules(self, segments: NDArray[np.float64], color: Color, width: float, opacity: float) -> None:
        if not len(segments):
            return
        height, breadth = self.shape
        ends = segments.reshape(-1, 2)
        low = np.clip(np.floor(ends.min(axis=0) - width / 2 - 1), 0, [breadth, height]).astype(int)
        high = np.clip(np.ceil(ends.max(axis=0) + width / 2 + 1), 0, [breadth, height]).astype(int)
        if (high <= low).any():
            return
        x = np.arange(low[0], high[0], dtype=np.float32)[None, :] + 0.5
        y = np.arange(low[1], high[1], dtype=np.float32)[:, None] + 0.5
        cover = np.zeros((high[1] - low[1], high[0] - low[0]), dtype=np.float32)
        for ax, ay, bx, by in segments:
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
            distance = np.hypot(x - ax - along * dx, y - ay - along * dy)
            np.maximum(cover, np.clip(width / 2 + 0.5 - distance, 0, 1), out=cover)
        self.blend(slice(low[1], high[1]), slice(low[0], high[0]), opacity * cover, color)

    def polygon(self, points: ArrayLike, color: Color, *, opacity: float = 1.0) -> None:
        """A filled convex polygon, either way round."""
        xy = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        height, breadth = self.shape
        low = np.clip(np.floor(xy.min(axis=0) - 1), 0, [breadth, height]).astype(int)
        high = np.clip(np.ceil(xy.max(axis=0) + 1), 0, [breadth, height]).astype(int)
        if (high <= low).any():
            return
        x = np.arange(low[0], high[0])[None, :] + 0.5
        y = np.arange(low[1], high[1])[:, None] + 0.5
        edge = np.roll(xy, -1, axis=0) - xy
        sign = 1.0 if float((xy[:, 0] * np.roll(xy[:, 1], -1) - np.roll(xy[:, 0], -1) * xy[:, 1]).sum()) >= 0 else -1.0
        cover = np.ones((high[1] - low[1], high[0] - low[0]), dtype=np.float32)
        for (px, py), (ex, ey) in zip(xy, edge, strict=True):
            inward = sign * (ex * (y - py) - ey * (x - px)) / max(float(np.hypot(ex, ey)), 1e-9)
            np.minimum(cover, np.clip(inward + 0.5, 0, 1), out=cover)
        self.blend(slice(low[1], high[1]), slice(low[0], high[0]), opacity * cover, color)

    def text(self, x: float, y: float, text: str, color: Color, *, scale: int = 1, opacity: float = 1.0) -> None:
        """One line of text with its top left corner at (x, y); what falls off the picture is cut."""
        mask = text_mask(text, scale=scale).astype(np.float32)
        left, top = round(x), round(y)
        mask = mask[max(-top, 0) : max(self.shape[0] - top, 0), max(-left, 0) : max(self.shape[1] - left, 0)]
        top, left = max(top, 0), max(left, 0)
        if mask.size:
            self.blend(slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]), opacity * mask, color)
