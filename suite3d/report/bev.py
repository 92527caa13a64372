"""A scan from above: points by height, what a method hid and predicted, boxes found beside boxes labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.report.canvas import Canvas, Color
from suite3d.report.font import text_width
from suite3d.report.geometry import as_boxes, box_corners

Float = NDArray[np.floating]

BACKGROUND: Color = (16, 18, 24)
STRIP: Color = (28, 31, 40)
INK: Color = (226, 230, 238)
FAINT: Color = (120, 128, 145)
HIDDEN: Color = (255, 176, 59)
PREDICTED: Color = (255, 92, 158)
DETECTED: Color = (64, 210, 255)
LABELLED: Color = (124, 240, 110)
HEIGHT_COLORS = np.array([(62, 66, 122), (58, 104, 148), (66, 143, 140), (120, 176, 116), (206, 208, 120), (250, 236, 184)], dtype=np.float32)
TITLE_HEIGHT, LEGEND_HEIGHT = 30, 26
MAX_SCORES = 80


@dataclass(kw_only=True)
class BevScene:
    """What to show of one scan (LiDAR frame, metres).

    Attributes:
        points: ``(N, 3)``.
        hidden: ``(K, 3)`` centres of the voxels hidden from the encoder, or None.
        predicted: ``(L, 3)`` reconstructed points, or None.
        boxes: ``(M, 7 | 9)`` detections, or None.
        labels_boxes: ``(G, 7 | 9)`` ground truth, or None.
        scores: ``(M,)`` of the detections, or None.
        voxel_size: edge of the hidden voxels on the ground.
        title: one line.
    """

    points: Float
    hidden: Float | None = None
    predicted: Float | None = None
    boxes: Float | None = None
    labels_boxes: Float | None = None
    scores: Float | None = None
    voxel_size: float = 0.5
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class BevView:
    """Where the ground lies in the picture: x (forward) points up, y (left) points left.

    Attributes:
        x0, y0, x1, y1: metres shown.
        scale: pixels per metre.
        top: rows above the map.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    scale: float
    top: int = TITLE_HEIGHT

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the map in pixels."""
        return round((self.x1 - self.x0) * self.scale), round((self.y1 - self.y0) * self.scale)

    def to_pixels(self, xy: Float) -> NDArray[np.float64]:
        """``(..., >=2)`` metres -> ``(..., 2)`` pixels (x right, y down); a pixel's centre is at .5."""
        xy = np.asarray(xy, dtype=np.float64)
        return np.stack([(self.y1 - xy[..., 1]) * self.scale, self.top + (self.x1 - xy[..., 0]) * self.scale], axis=-1)


def bev_view(scene: BevScene, size: int = 900, range: Sequence[float] | None = None) -> BevView:
    """The view :func:`draw_bev` uses: ``range`` (x0, y0, x1, y1 or x0, y0, z0, x1, y1, z1), or what holds most points and every label.

    Raises:
        ValueError: a range of another length or without extent.
    """
    if range is not None:
        if len(range) not in (4, 6):
            raise ValueError(f"expected range (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), got {len(range)} numbers")
        x0, y0, x1, y1 = (range[i] for i in ((0, 1, 2, 3) if len(range) == 4 else (0, 1, 3, 4)))
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"expected x0 < x1 and y0 < y1, got {tuple(range)}")
    else:
        points = _finite(scene.points)[:, :2]
        anchors = [as_boxes(scene.labels_boxes)[:, :2]]
        if len(points):
            margin = 0.02 if len(points) > 200 else 0.0
            anchors.append(np.quantile(points, [margin, 1 - margin], axis=0))
        corners = np.concatenate(anchors) if sum(map(len, anchors)) else np.zeros((1, 2))
        (x0, y0), (x1, y1) = corners.min(axis=0) - 3.0, corners.max(axis=0) + 3.0
        middle, side = 0.5 * (x0 + x1), max(x1 - x0, 0.5 * (y1 - y0))
        x0, x1 = middle - side / 2, middle + side / 2
        middle, side = 0.5 * (y0 + y1), max(y1 - y0, 0.8 * (x1 - x0))
        y0, y1 = middle - side / 2, middle + side / 2
    return BevView(x0=x0, y0=y0, x1=x1, y1=y1, scale=size / max(x1 - x0, y1 - y0))


def draw_bev(scene: BevScene, size: int = 900, range: Sequence[float] | None = None) -> NDArray[np.uint8]:
    """Picture ``(H, W, 3)`` uint8 of a scene; the longer side of the map is ``size`` pixels.

    Args:
        scene: what to show.
        size: pixels.
        range: metres to show, see :func:`bev_view`.
    """
    view = bev_view(scene, size, range)
    height, width = view.map_size
    legend = _legend(scene)
    lines = _legend_lines(legend, width)
    canvas = Canvas((height + TITLE_HEIGHT + LEGEND_HEIGHT * len(lines), width), BACKGROUND)
    _draw_rings(canvas, view)
    points = _finite(scene.points)
    if len(points):
        dense = len(points) > 0.15 * height * width
        masked = scene.hidden is not None or scene.predicted is not None
        canvas.points(view.to_pixels(points), height_colors(points[:, 2]), size=1.2 if dense else 1.7, opacity=0.6 if masked else 0.9)
    if scene.hidden is not None and len(scene.hidden):
        _draw_voxels(canvas, view, _finite(scene.hidden), scene.voxel_size)
    if scene.predicted is not None and len(scene.predicted):
        canvas.points(view.to_pixels(_finite(scene.predicted)), PREDICTED, size=2.0, opacity=1.0)
    _draw_distances(canvas, view)
    _draw_boxes(canvas, view, as_boxes(scene.labels_boxes), LABELLED, None, width=2.6)
    _draw_boxes(canvas, view, as_boxes(scene.boxes), DETECTED, scene.scores, width=1.5)
    _draw_strips(canvas, scene.title, lines)
    return canvas.image()


def height_colors(z: Float, *, low: float | None = None, high: float | None = None) -> NDArray[np.float32]:
    """``(N,)`` metres -> ``(N, 3)`` colours; the scale runs over the middle 96 % unless its ends are given."""
    low = float(np.quantile(z, 0.02)) if low is None else low
    high = float(np.quantile(z, 0.98)) if high is None else high
    place = np.clip((np.asarray(z, dtype=np.float32) - low) / max(high - low, 1e-3), 0, 1) * (len(HEIGHT_COLORS) - 1)
    left = np.minimum(place.astype(np.int64), len(HEIGHT_COLORS) - 2)
    share = (place - left)[:, None].astype(np.float32)
    return (1 - share) * HEIGHT_COLORS[left] + share * HEIGHT_COLORS[left + 1]


def _finite(points: Float) -> NDArray[np.float64]:
    rows = np.asarray(points, dtype=np.float64).reshape(-1, np.asarray(points).shape[-1] if np.asarray(points).ndim == 2 else 3)[:, :3]
    return rows[np.isfinite(rows).all(axis=1)]


def _radii(view: BevView) -> NDArray[np.float64]:
    reach = float(max(np.hypot(x, y) for x in (view.x0, view.x1) for y in (view.y0, view.y1)))
    extent = max(view.x1 - view.x0, view.y1 - view.y0)
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100) if extent / step <= 12), 200)
    return np.arange(step, reach + step, step, dtype=np.float64)


def _draw_rings(canvas: Canvas, view: BevView) -> None:
    """Distance circles about the sensor, and the sensor itself."""
    angles = np.linspace(0, 2 * np.pi, 181)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for radius in _radii(view):
        arc = view.to_pixels(radius * circle)
        keep = (arc[:-1] > -50).all(axis=1) & (arc[:-1] < np.array(canvas.shape[::-1]) + 50).all(axis=1)
        if keep.any():
            dense = np.concatenate(
                [arc[:-1][keep] + share * (arc[1:] - arc[:-1])[keep] for share in np.arange(0, 1, 1 / max(radius * view.scale / 28, 1))]
            )
            canvas.points(dense, (74, 80, 98), size=1.0, opacity=0.8)
    nose = view.to_pixels(np.array([[1.6, 0.0], [-1.0, 1.0], [-1.0, -1.0]]) * max(1.0, 7 / view.scale))
    canvas.polygon(nose, INK, opacity=0.85)


def _draw_distances(canvas: Canvas, view: BevView) -> None:
    for radius in _radii(view):
        label = f"{radius:g} m"
        x, y = view.to_pixels(np.array([radius * np.cos(0.6), -radius * np.sin(0.6)]))
        if 4 < x < canvas.shape[1] - text_width(label) - 4 and view.top + 4 < y < view.top + view.map_size[0] - 12:
            canvas.rectangle(x, y - 5, text_width(label) + 5, 11, BACKGROUND, opacity=0.7)
            canvas.text(x + 3, y - 3, label, FAINT)


def _draw_voxels(canvas: Canvas, view: BevView, centers: NDArray[np.float64], size: float) -> None:
    """Outlines of many equal squares; voxels above one another are drawn once."""
    cells = np.unique(np.round(centers[:, :2] / max(size, 1e-6) * 4).astype(np.int64), axis=0, return_index=True)[1]
    side = size * view.scale
    corner = view.to_pixels(centers[cells]) - side / 2
    steps = np.linspace(0, 1, max(2, int(np.ceil(side * 1.5))), endpoint=False) * side
    zero, full = np.zeros_like(steps), np.full_like(steps, side)
    outline = np.concatenate([np.stack(pair, axis=1) for pair in ((steps, zero), (full, steps), (steps, full), (zero, steps))])
    canvas.points((corner[:, None] + outline[None]).reshape(-1, 2), HIDDEN, size=1.0, opacity=0.4)


def _draw_boxes(canvas: Canvas, view: BevView, boxes: NDArray[np.float64], color: Color, scores: Float | None, *, width: float) -> None:
    height, breadth = canvas.shape
    for row, (box, corners) in enumerate(zip(boxes, box_corners(boxes)[:, :4], strict=True)):
        outline = view.to_pixels(corners)
        if not np.isfinite(outline).all() or (outline.max(axis=0) < 0).any() or (outline.min(axis=0) > [breadth, height]).any():
            continue
        strength = 1.0 if scores is None else float(np.clip(0.35 + 0.65 * scores[row], 0.35, 1))
        canvas.polyline(outline, color, width=width, opacity=strength, closed=True)
        forward = 0.5 * box[3] * np.array([np.cos(box[6]), np.sin(box[6])])
        reach = 1 + max(0.35, 5.0 / max(np.hypot(*forward) * view.scale, 1e-6))
        tick = view.to_pixels(np.stack([box[:2] + forward, box[:2] + reach * forward]))
        canvas.line(tick[0], tick[1], color, width=width, opacity=strength)
        if scores is not None and len(boxes) <= MAX_SCORES:
            canvas.text(outline[:, 0].max() + 3, outline[:, 1].min() - 2, f"{scores[row]:.2f}", color, opacity=0.8)


def _legend(scene: BevScene) -> list[tuple[str, Color]]:
    count = lambda rows: 0 if rows is None else len(rows)  # noqa: E731
    entries: list[tuple[str, Color]] = [(f"{count(scene.points)} points, by height", (120, 176, 116))]
    if scene.hidden is not None:
        entries.append((f"{count(scene.hidden)} voxels hidden", HIDDEN))
    if scene.predicted is not None:
        entries.append((f"{count(scene.predicted)} points predicted", PREDICTED))
    if scene.labels_boxes is not None:
        entries.append((f"{count(scene.labels_boxes)} labelled", LABELLED))
    if scene.boxes is not None:
        entries.append((f"{count(scene.boxes)} detected", DETECTED))
    return entries


def _legend_lines(entries: list[tuple[str, Color]], width: int) -> list[list[tuple[str, Color]]]:
    """Entries broken into lines that fit."""
    lines: list[list[tuple[str, Color]]] = [[]]
    used = 10
    for text, color in entries:
        need = 16 + text_width(text) + 22
        if lines[-1] and used + need > width:
            lines.append([])
            used = 10
        lines[-1].append((text, color))
        used += need
    return lines


def _draw_strips(canvas: Canvas, title: str, lines: list[list[tuple[str, Color]]]) -> None:
    height, width = canvas.shape
    canvas.rectangle(0, 0, width, TITLE_HEIGHT, STRIP)
    scale = 2 if text_width(title, scale=2) <= width - 20 else 1
    canvas.text(10, (TITLE_HEIGHT - 7 * scale) / 2, title, INK, scale=scale)
    top = height - LEGEND_HEIGHT * len(lines)
    canvas.rectangle(0, top, width, height - top, STRIP)
    for number, line in enumerate(lines):
        x, y = 10.0, top + LEGEND_HEIGHT * number + (LEGEND_HEIGHT - 7) / 2
        for text, color in line:
            canvas.rectangle(x, y - 1, 9, 9, color)
            canvas.text(x + 16, y, text, INK)
            x += 16 + text_width(text) + 22
