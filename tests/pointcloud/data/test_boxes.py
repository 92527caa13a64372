from __future__ import annotations

import numpy as np
import pytest

from suite3d.pointcloud.data.boxes import box_index, collide_bev, points_per_box


def random_boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.uniform(-8, 8, (count, 3)) * [1, 1, 0.2], rng.uniform(0.5, 5, (count, 3)), rng.uniform(-7, 7, (count, 1))], axis=1
    ).astype(np.float32)


def test_points_in_boxes_against_half_spaces() -> None:
    boxes = random_boxes(12, 0)
    xyz = np.random.default_rng(1).uniform(-10, 10, (3000, 3)).astype(np.float32) * np.float32([1, 1, 0.3])
    inside = np.ones((len(boxes), len(xyz)), dtype=bool)
    for m, (cx, cy, cz, dx, dy, dz, yaw) in enumerate(boxes.astype(np.float64)):
        for angle, half in ((yaw, dx / 2), (yaw + np.pi / 2, dy / 2)):
            axis = np.array([np.cos(angle), np.sin(angle)])
            for sign in (1, -1):
                edge = np.array([cx, cy]) + sign * half * axis
                inside[m] &= sign * ((xyz[:, :2] - edge) @ axis) <= 0
        inside[m] &= np.abs(xyz[:, 2] - cz) <= dz / 2
    np.testing.assert_array_equal(points_per_box(xyz, boxes), inside.sum(axis=1))
    first = np.where(inside.any(axis=0), inside.argmax(axis=0), -1)
    np.testing.assert_array_equal(box_index(xyz, boxes), first)
    assert inside.sum() > 100 and (inside.sum(axis=0) > 1).any()


def test_collisions_against_polygons() -> None:
    shapely = pytest.importorskip("shapely")
    affinity = pytest.importorskip("shapely.affinity")
    a, b = random_boxes(30, 2), random_boxes(40, 3)

    def polygon(row: np.ndarray) -> object:
        flat = shapely.box(-row[3] / 2, -row[4] / 2, row[3] / 2, row[4] / 2)
        return affinity.translate(affinity.rotate(flat, float(row[6]), origin=(0, 0), use_radians=True), row[0], row[1])

    areas = np.array([[polygon(x).intersection(polygon(y)).area for y in b] for x in a])  # type: ignore[attr-defined]
    clear = (areas == 0) | (areas > 1e-4)
    np.testing.assert_array_equal(collide_bev(a, b)[clear], (areas > 0)[clear])
    assert 0.05 < (areas > 0).mean() < 0.9


def test_no_boxes_no_points() -> None:
    none = np.zeros((0, 7), np.float32)
    assert box_index(np.zeros((3, 3), np.float32), none).tolist() == [-1] * 3
    assert points_per_box(np.zeros((0, 3), np.float32), random_boxes(2, 0)).tolist() == [0, 0]
    assert collide_bev(none, random_boxes(2, 0)).shape == (0, 2)
