from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data.boxes import box_index
from suite3d.pointcloud.data.dbscan import dbscan
from suite3d.pointcloud.data.ground import ground_mask
from suite3d.pointcloud.data.kitti import KittiObject
from suite3d.pointcloud.data.regions import ClusterRegions
from suite3d.pointcloud.data.semantickitti import SemanticKitti


def naive_dbscan(xyz: np.ndarray, eps: float, min_points: int) -> np.ndarray:
    """The paper's expansion, on the full distance matrix."""
    near = ((xyz[:, None] - xyz[None]) ** 2).sum(-1) <= eps * eps
    core = near.sum(1) >= min_points
    labels, count = np.full(len(xyz), -1), 0
    for start in range(len(xyz)):
        if labels[start] >= 0 or not core[start]:
            continue
        queue = [start]
        labels[start] = count
        while queue:
            point = queue.pop()
            for other in np.flatnonzero(near[point] & (labels < 0)) if core[point] else []:
                labels[other] = count
                queue.append(int(other))
        count += 1
    return labels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("eps", "min_points"), [(0.75, 5), (0.3, 3), (0.5, 1), (1.1, 12)])
def test_dbscan_is_exact(seed: int, eps: float, min_points: int) -> None:
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(-6, 6, (8, 1, 3)) * [1, 1, 0.3] + rng.normal(size=(8, 30, 3)) * rng.uniform(0.05, 0.6, (8, 1, 1))
    xyz = np.concatenate([blobs.reshape(-1, 3), rng.uniform(-8, 8, (120, 3))])
    xyz = xyz[rng.permutation(len(xyz))]
    labels = dbscan(xyz, eps=eps, min_points=min_points)
    np.testing.assert_array_equal(labels, naive_dbscan(xyz, eps, min_points))
    assert labels.max() >= 1


def test_dbscan_on_a_lattice_counts_the_boundary_in() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    assert (dbscan(grid, eps=1.0, min_points=4) == 0).all()
    assert (dbscan(grid, eps=0.999, min_points=2) == -1).all()
    assert dbscan(np.zeros((0, 3))).shape == (0,)
    with pytest.raises(ValueError, match="eps"):
        dbscan(grid, eps=0)


def test_dbscan_is_exact_on_part_of_a_real_scan(shared_data: Path) -> None:
    xyz = SemanticKitti(shared_data / "semantickitti").frame(0).xyz
    xyz = xyz[~ground_mask(xyz)]
    xyz = xyz[(xyz[:, 0] > 10) & (np.abs(xyz[:, 1]) < 40)][::3].astype(np.float64)
    assert 1500 < len(xyz) < 5000
    np.testing.assert_array_equal(dbscan(xyz), naive_dbscan(xyz, 0.75, 5))


def street(seed: int, *, slope: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ground rising along x, a wall, and a car; and which points are ground."""
    rng = np.random.default_rng(seed)
    ground = np.concatenate([rng.normal(size=(20_000, 2)) * 15, rng.normal(size=(20_000, 1)) * 0.02 - 1.7], axis=1)
    car = rng.uniform([8, 2, -1.4], [12, 4, 0], (900, 3))
    wall = np.stack([rng.uniform(-20, 20, 3000), np.full(3000, -9.0), rng.uniform(-1.3, 3, 3000)], axis=1)
    ground = ground[~((ground[:, 0] > 8) & (ground[:, 0] < 12) & (ground[:, 1] > 2) & (ground[:, 1] < 4))]
    xyz = np.concatenate([ground, car, wall])
    xyz[:, 2] += slope * xyz[:, 0]
    return xyz.astype(np.float32), np.arange(len(xyz)) < len(ground)


@pytest.mark.parametrize("slope", [0.0, 0.08, -0.08])
def test_ground_and_regions_of_a_plain_street(slope: float) -> None:
    xyz, ground = street(0, slope=slope)
    found = ground_mask(xyz)
    assert found[ground].mean() > 0.98 and found[~ground].mean() < 0.05
    regions = ClusterRegions()(xyz)
    car = (xyz[:, 0] >= 8) & (xyz[:, 0] <= 12) & (xyz[:, 1] >= 2) & (xyz[:, 1] <= 4) & ~ground & ~found
    wall = ~ground & ~found & (xyz[:, 1] < -8)
    assert len(set(regions[car])) == 1 and len(set(regions[wall])) == 1 and set(regions[car]) != set(regions[wall])
    assert (regions[found] == -1).all()
    near = ClusterRegions(max_range=15)(xyz)
    assert (near[np.hypot(xyz[:, 0], xyz[:, 1]) > 15] == -1).all()


def test_ground_edge_cases() -> None:
    assert ground_mask(np.zeros((0, 3), np.float32)).shape == (0,)
    few = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert ground_mask(few).shape == (5,) and ClusterRegions()(few).shape == (5,)


def test_real_ground_labels(shared_data: Path) -> None:
    frame = SemanticKitti(shared_data / "semantickitti").frame(0)
    known = frame.point_labels > 0
    truth = np.isin(frame.point_labels, [9, 10, 11, 12, 17])  # road, parking, sidewalk, other ground, terrain
    found = ground_mask(frame.xyz)
    assert (found & truth)[known].sum() / found[known].sum() > 0.93
    assert (found & truth).sum() / truth.sum() > 0.97


def test_real_objects_become_regions(shared_data: Path) -> None:
    frame = KittiObject(shared_data / "kitti_object", "trainval", fov_only=False).frame(4)
    regions = ClusterRegions()(frame.xyz)
    owner = box_index(frame.xyz, frame.boxes)
    for k in range(len(frame.boxes)):
        inside = regions[owner == k]
        clustered = inside[inside >= 0]
        assert len(clustered) > 0.5 * len(inside) and np.bincount(clustered).max() > 0.9 * len(clustered)
