"""Labels of voxels and BEV cells against point-in-box by hand, and a probe on a real encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.detection.evaluate.probe import (
    bev_cells,
    bev_labels,
    box_feature_labels,
    labels_from_boxes,
    labels_from_points,
    probe_encoder,
    probe_rows,
    sample_evenly,
)
from suite3d.pointcloud.encoders.base import VoxelGrid, Voxels

GRID = VoxelGrid(point_range=(0.0, -8.0, -2.0, 16.0, 8.0, 2.0), voxel_size=(0.5, 0.5, 0.5))


def inside(center, box):
    x, y = center[0] - box[0], center[1] - box[1]
    along, across = np.cos(box[6]) * x + np.sin(box[6]) * y, np.cos(box[6]) * y - np.sin(box[6]) * x
    return abs(along) < box[3] / 2 and abs(across) < box[4] / 2 and abs(center[2] - box[2]) < box[5] / 2


def test_voxel_labels_by_hand():
    rng = np.random.default_rng(0)
    centers = rng.uniform([0, -8, -2], [16, 8, 2], (600, 3)).astype(np.float32)
    scan = rng.integers(0, 2, 600)
    boxes = [np.array([[8, 0, 0, 6, 4, 3, 0.5], [9, 0, 0, 6, 4, 3, 2.0]], np.float32), np.zeros((0, 7), np.float32)]
    labels = labels_from_boxes(
        torch.from_numpy(centers),
        torch.from_numpy(scan),
        [torch.from_numpy(b) for b in boxes],
        [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.long)],
    )
    expected = [next((cls for cls, box in zip((3, 1), boxes[s], strict=False) if inside(c, box)), 0) for c, s in zip(centers, scan, strict=True)]
    assert labels.tolist() == expected and {0, 1, 3} == set(expected)


def test_bev_cells_lie_where_the_map_says_and_ignore_height():
    centers, scan = bev_cells(GRID, 4, (8, 8), 2)
    assert centers.shape == (128, 3) and scan.tolist() == [0] * 64 + [1] * 64
    assert centers[0].tolist() == [1, -7, 0] and centers[1].tolist() == [3, -7, 0] and centers[8].tolist() == [1, -5, 0]
    high = torch.tensor([[5.0, -3, 40, 1, 1, 1, 0]])
    labels = bev_labels(centers, scan, [torch.zeros(0, 7), high], [torch.zeros(0, dtype=torch.long), torch.tensor([1])]).view(2, 8, 8)
    assert labels[1, 2, 2] == 2 and (labels != 0).sum() == 1


def test_feature_cells_of_a_deeper_level():
    # Stride (2, 4, 8): cell [0, 1, 3, 1] spans x 4..8, y -2..0, z -1..0 on this grid.
    box = torch.tensor([[6.0, -1.0, -0.5, 0.2, 0.2, 0.2, 0.0]])
    coords = torch.tensor([[0, 1, 3, 1], [0, 0, 3, 1], [0, 1, 3, 0], [0, 1, 2, 1], [1, 1, 3, 1]], dtype=torch.int32)
    labels = box_feature_labels(coords, GRID, (2, 4, 8), [box, torch.zeros(0, 7)], [torch.tensor([4]), torch.zeros(0, dtype=torch.long)])
    assert labels.tolist() == [5, 0, 0, 0, 0]


def test_point_labels_vote_per_voxel():
    voxels = Voxels(
        coords=torch.zeros(3, 4, dtype=torch.int32),
        xyz=torch.zeros(6, 3),
        feats=torch.zeros(6, 0),
        point_voxel=torch.tensor([0, 0, 0, 1, 1, 2]),
        point_index=torch.tensor([5, 4, 3, 2, 1, 0]),
        counts=torch.tensor([3, 2, 1]),
        grid=GRID,
        batch_size=1,
    )
    assert labels_from_points(voxels, torch.tensor([-1, 3, 0, 2, 1, 1]), classes=4).tolist() == [1, 0, -1]


def test_even_samples():
    labels = torch.tensor([0] * 500 + [1] * 20 + [-1] * 50 + [2] * 3)
    rows = sample_evenly(labels, per_class=10, generator=torch.Generator().manual_seed(0))
    assert torch.bincount(labels[rows]).tolist() == [10, 10, 3] and (rows.diff() > 0).all()
    assert rows.tolist() != list(range(10)) + list(range(500, 510)) + [570, 571, 572]
    assert rows.tolist() == sample_evenly(labels, per_class=10, generator=torch.Generator().manual_seed(0)).tolist()
    assert len(sample_evenly(torch.full((4,), -1), per_class=2, generator=torch.Generator())) == 0


def batch(seed, *, labelled=True):
    """Ground with two boxes full of points; boxes of class 0 are low, of class 1 high."""
    rng = np.random.default_rng(seed)
    ground = np.concatenate([rng.uniform([0, -8], [16, 8], (1500, 2)), rng.normal(-1.5, 0.05, (1500, 1))], axis=1)
    boxes = np.array([[4, rng.uniform(-5, 5), -1, 3, 2, 1, 0.3], [11, rng.uniform(-5, 5), 0, 2, 2, 3, 1.0]], np.float32)
    points = [
        box[:3]
        + (rng.uniform(-0.5, 0.5, (300, 3)) * box[3:6])
        @ np.array([[np.cos(box[6]), np.sin(box[6]), 0], [-np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]])
        for box in boxes
    ]
    xyz = torch.from_numpy(np.concatenate([ground, *points]).astype(np.float32))
    return PointBatch(
        xyz=xyz,
        feats=torch.from_numpy(rng.random((len(xyz), 1)).astype(np.float32)),
        offsets=torch.tensor([0, len(xyz)]),
        channels=("intensity",),
        names=[f"scan{seed}"],
        seeds=[seed],
        boxes=[torch.from_numpy(boxes)] if labelled else None,
        labels=[torch.tensor([0, 1])] if labelled else None,
    )


@pytest.fixture(scope="module")
def encoder():
    from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x

    torch.manual_seed(0)
    grid = VoxelGrid(point_range=(0.0, -8.0, -2.0, 16.0, 8.0, 2.0), voxel_size=(0.25, 0.25, 0.1))
    return VoxelBackBone8x(grid, channels=("intensity",))


def test_a_random_encoder_is_above_chance_and_the_same_twice(encoder):
    fit, held_out = [batch(seed) for seed in range(3)], [batch(seed) for seed in range(10, 12)]
    encoder.train()
    score = probe_encoder(encoder, fit, held_out, classes=2, per_class=64)
    assert score.chance == pytest.approx(1 / 3) and score.balanced_accuracy > 0.6
    assert score == probe_encoder(encoder, fit, held_out, classes=2, per_class=64) and encoder.training


def test_shuffled_labels_are_chance(encoder):
    fit, held_out = [batch(seed) for seed in range(3)], [batch(seed) for seed in range(10, 12)]
    for one in (*fit, *held_out):
        one.boxes[0][:, 1] = torch.empty(2).uniform_(-5, 5, generator=torch.Generator().manual_seed(one.seeds[0]))
        one.boxes[0][:, 5] = 20.0
    right = probe_encoder(encoder, [batch(seed) for seed in range(3)], [batch(seed) for seed in (10, 11)], classes=2, per_class=64)
    assert probe_encoder(encoder, fit, held_out, classes=2, per_class=64).balanced_accuracy < right.balanced_accuracy - 0.1


def test_data_without_labels_are_no_error(encoder):
    generator = torch.Generator().manual_seed(0)
    assert probe_rows(encoder, batch(0, labelled=False), generator=generator) is None
    assert probe_encoder(encoder, [batch(0)], [batch(1, labelled=False)], classes=2) is None
    assert probe_rows(encoder, batch(0), generator=generator, point_classes=3) is None
