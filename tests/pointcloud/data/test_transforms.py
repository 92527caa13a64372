from __future__ import annotations

import numpy as np
import pytest

from suite3d.pointcloud.data.affine import transform_frame
from suite3d.pointcloud.data.boxes import box_index, points_per_box
from suite3d.pointcloud.data.transforms import (
    BeamDropout,
    MaxPoints,
    PointDropout,
    RandomFlip,
    RandomScale,
    RandomShift,
    RandomYaw,
    RangeFilter,
    ShufflePoints,
    apply_transforms,
)
from tests.pointcloud.data.scenes import make_scene

GLOBAL = [
    RandomFlip(axis="x", probability=1.0),
    RandomFlip(axis="y", probability=1.0),
    RandomYaw(low=-3, high=3),
    RandomScale(low=0.8, high=1.3),
    RandomShift(),
]
EVERY = [*GLOBAL, PointDropout(low=0.3, high=0.3), BeamDropout(low=0.5), BeamDropout(low=0.5, bins=8), ShufflePoints(), MaxPoints(count=100)]


@pytest.mark.parametrize("transform", [*[[t] for t in GLOBAL], GLOBAL], ids=lambda ts: "+".join(type(t).__name__ for t in ts))
def test_global_augmentations_move_everything_together(transform: list) -> None:
    for seed in range(5):
        before = make_scene(seed)
        after = apply_transforms(before, transform, np.random.default_rng(seed))
        matrix = after.meta["augmentation"]
        assert not np.allclose(matrix, np.eye(4))
        # points stay in their boxes
        np.testing.assert_array_equal(box_index(after.xyz, after.boxes), box_index(before.xyz, before.boxes))
        assert points_per_box(after.xyz, after.boxes).min() >= 30
        # the accumulated matrix is what happened, and the pose still leads to the world
        lift = lambda xyz, m: xyz.astype(np.float64) @ m[:3, :3].T + m[:3, 3]  # noqa: E731
        np.testing.assert_allclose(lift(before.xyz, matrix), after.xyz, atol=2e-4)
        np.testing.assert_allclose(lift(after.xyz, after.pose), lift(before.xyz, before.pose), atol=2e-4)
        # where a point or a box is a moment later: the same before and after
        later = transform_frame_points(before.xyz + before.flow, matrix)
        np.testing.assert_allclose(after.xyz + after.flow, later, atol=2e-4)
        moved = before.boxes[:, :3].astype(np.float64).copy()
        moved[:, :2] += before.boxes[:, 7:]
        now = after.boxes[:, :3].astype(np.float64).copy()
        now[:, :2] += after.boxes[:, 7:]
        np.testing.assert_allclose(now, lift(moved, matrix), atol=2e-4)
        # heading: a point in front of the box stays in front
        front = before.boxes[:, :3] + np.stack([np.cos(before.boxes[:, 6]), np.sin(before.boxes[:, 6]), np.zeros(5)], axis=1)
        ahead = transform_frame_points(front, matrix) - after.boxes[:, :3]
        scale = matrix[2, 2]
        np.testing.assert_allclose(ahead[:, :2], scale * np.stack([np.cos(after.boxes[:, 6]), np.sin(after.boxes[:, 6])], axis=1), atol=2e-4)
        # normals keep length one and turn with the cloud
        normals = after.feats[:, 1:4]
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(normals, before.feats[:, 1:4] @ (matrix[:3, :3] / scale).T, atol=1e-5)
        np.testing.assert_array_equal(after.feats[:, [0, 4]], before.feats[:, [0, 4]])


def transform_frame_points(xyz: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return xyz.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def test_known_flips() -> None:
    frame = make_scene(0)
    x, y = (apply_transforms(frame, [RandomFlip(axis=axis, probability=1.0)], np.random.default_rng(0)) for axis in "xy")
    np.testing.assert_array_equal(x.xyz, frame.xyz * np.float32([1, -1, 1]))
    np.testing.assert_allclose(x.boxes[:, 6], -frame.boxes[:, 6], atol=1e-6)
    np.testing.assert_array_equal(y.xyz, frame.xyz * np.float32([-1, 1, 1]))
    np.testing.assert_allclose(np.exp(1j * y.boxes[:, 6]), np.exp(1j * (np.pi - frame.boxes[:, 6])), atol=1e-6)
    with pytest.raises(ValueError, match="axis"):
        RandomFlip(axis="z")


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_pure_functions_of_frame_and_generator(transform: object) -> None:
    frame, untouched = make_scene(3), make_scene(3)
    a, b = (transform(frame, np.random.default_rng(5)) for _ in range(2))  # type: ignore[operator]
    other = transform(frame, np.random.default_rng(6))  # type: ignore[operator]
    for name in ("xyz", "feats", "boxes", "pose", "flow"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_array_equal(getattr(frame, name), getattr(untouched, name))
    assert "augmentation" not in frame.meta
    if not isinstance(transform, RandomFlip):
        assert a.xyz.shape != other.xyz.shape or not np.array_equal(a.xyz, other.xyz)


def test_probability_and_interval() -> None:
    frame = make_scene(0, points=1, boxes=1)
    flips = [RandomFlip(probability=0.3)(frame, np.random.default_rng(k)) is not frame for k in range(400)]
    assert 0.22 < np.mean(flips) < 0.38
    scales = [RandomScale(low=0.9, high=1.2)(frame, np.random.default_rng(k)).meta["augmentation"][0, 0] for k in range(200)]
    assert 0.9 <= min(scales) < 0.93 and 1.17 < max(scales) <= 1.2


def test_matrices_that_would_break_boxes_are_refused() -> None:
    for matrix in (np.diag([1.0, 1, 2, 1]), np.diag([1.0, 1, -1, 1]), np.eye(4)[[2, 1, 0, 3]]):
        with pytest.raises(ValueError, match="similarity"):
            transform_frame(make_scene(0), matrix)


def test_dropouts() -> None:
    frame = make_scene(1, points=4000)
    kept = PointDropout(low=0.25, high=0.25)(frame, np.random.default_rng(0))
    assert abs(len(kept.xyz) / len(frame.xyz) - 0.75) < 0.03 and len(kept.point_labels) == len(kept.xyz) == len(kept.flow)
    rings = BeamDropout(low=0.5, high=0.5)(frame, np.random.default_rng(0))
    left = set(np.unique(rings.feats[:, 4]))
    assert 2 <= len(left) <= 14
    expected = frame.xyz[np.isin(frame.feats[:, 4], list(left))]
    np.testing.assert_array_equal(rings.xyz, expected)
    everything = BeamDropout(low=1.0, high=1.0)(frame, np.random.default_rng(0))
    assert len(np.unique(everything.feats[:, 4])) == 1 and len(everything.xyz)
    assert len(MaxPoints(count=50)(frame, np.random.default_rng(0)).xyz) == 50


def test_beams_from_elevation() -> None:
    rng = np.random.default_rng(0)
    elevation = np.deg2rad(np.linspace(-24, 2, 32))
    beam = rng.integers(0, 32, 5000)
    distance, azimuth = rng.uniform(3, 60, 5000), rng.uniform(-np.pi, np.pi, 5000)
    flat = distance * np.cos(elevation[beam])
    frame = make_scene(0, points=0, boxes=0)
    frame = type(frame)(
        name="a",
        sequence="a",
        xyz=np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation[beam])], axis=1).astype(np.float32),
        feats=np.zeros((5000, 0), np.float32),
        channels=(),
        boxes=None,
    )
    kept = BeamDropout(low=0.5, high=0.5, bins=64)(frame, np.random.default_rng(1))
    survived = {int(b) for b in beam[np.isin(frame.xyz[:, 0], kept.xyz[:, 0])]}
    share = [np.isin(frame.xyz[beam == b, 0], kept.xyz[:, 0]).mean() for b in range(1, 31)]
    assert np.mean([(s < 0.02) or (s > 0.98) for s in share]) > 0.9 and 5 < len(survived) < 30


def test_range_filter_is_half_open_and_keeps_boxes_by_centre() -> None:
    frame = make_scene(2)
    frame.xyz[0], frame.xyz[1] = [0, 0, 0], [10, 0, 0]
    cut = RangeFilter(point_range=(0, -10, -3, 10, 10, 3))(frame, np.random.default_rng(0))
    keep = ((frame.xyz >= [0, -10, -3]) & (frame.xyz < [10, 10, 3])).all(axis=1)
    assert keep[0] and not keep[1]
    np.testing.assert_array_equal(cut.xyz, frame.xyz[keep])
    inside = ((frame.boxes[:, :2] >= [0, -10]) & (frame.boxes[:, :2] < [10, 10])).all(axis=1)
    np.testing.assert_array_equal(cut.boxes, frame.boxes[inside])
    assert cut.classes == [name for name, kept in zip(frame.classes, inside) if kept] and len(cut.track_ids) == inside.sum()


def test_frames_without_anything_optional() -> None:
    frame = make_scene(0)
    bare = type(frame)(name="a", sequence="a", xyz=frame.xyz, feats=frame.feats[:, :0], channels=())
    after = apply_transforms(bare, EVERY, np.random.default_rng(0))
    assert after.boxes is None and after.pose is None and after.flow is None and len(after.xyz) <= 100
