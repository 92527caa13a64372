"""Rotated overlaps against polygons clipped by shapely, and against the float32 operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.pointcloud.detection.evaluate.overlap import box_intersections, box_ious


def random_boxes(rng, count):
    return np.concatenate([rng.uniform(-4, 4, (count, 3)), rng.uniform(0.5, 5, (count, 3)), rng.uniform(-7, 7, (count, 1))], axis=1)


def corners(box):
    x, y, _, dx, dy, _, yaw = box
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return np.array([[dx, dy], [-dx, dy], [-dx, -dy], [dx, -dy]]) / 2 @ turn.T + [x, y]


def test_intersections_equal_shapely():
    geometry = pytest.importorskip("shapely.geometry", reason="shapely is the oracle")
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 30), random_boxes(rng, 30)
    area, volume = box_intersections(a, b)
    for i in range(len(a)):
        for j in range(len(b)):
            shared = geometry.Polygon(corners(a[i])).intersection(geometry.Polygon(corners(b[j]))).area
            top, bottom = min(a[i, 2] + a[i, 5] / 2, b[j, 2] + b[j, 5] / 2), max(a[i, 2] - a[i, 5] / 2, b[j, 2] - b[j, 5] / 2)
            assert area[i, j] == pytest.approx(shared, abs=1e-9)
            assert volume[i, j] == pytest.approx(shared * max(0.0, top - bottom), abs=1e-9)
    assert (area > 0).mean() > 0.3


def test_known_overlaps():
    a = np.array([[0, 0, 0, 2, 2, 2, 0.0]])
    b = np.array([[1, 0, 1, 2, 2, 2, 0.0], [0, 0, 0, 2, 2, 2, np.pi / 4], [2.5, 0, 0, 2, 2, 2, 0], [0, 0, 0, 2, 2, 2, np.pi / 2]])
    ground, space = box_ious(a, b)
    octagon = 8 * (np.sqrt(2) - 1)
    assert ground[0] == pytest.approx([2 / 6, octagon / (8 - octagon), 0, 1])
    assert space[0] == pytest.approx([2 / 14, octagon / (8 - octagon), 0, 1])


def test_agrees_with_the_operators():
    from suite3d.ops import box_iou_3d, box_iou_bev

    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 40), random_boxes(rng, 40)
    ground, space = box_ious(a, b)
    wide = lambda x: torch.from_numpy(x).float()  # noqa: E731
    np.testing.assert_allclose(box_iou_bev(wide(a), wide(b)).numpy(), ground, atol=2e-5)
    np.testing.assert_allclose(box_iou_3d(wide(a), wide(b)).numpy(), space, atol=2e-5)
