from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data.semantickitti import LEARNING_MAP, NAMES, SemanticKitti
from suite3d.source import BadSample


def make_root(root: Path, sequences: dict[str, int], *, labels: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for name, count in sequences.items():
        for part in ("velodyne", "labels"):
            (root / "sequences" / name / part).mkdir(parents=True)
        for k in range(count):
            rows = np.concatenate([rng.normal(size=(50, 3)) * 20, rng.random((50, 1))], axis=1).astype("<f4")
            (root / f"sequences/{name}/velodyne/{k:06d}.bin").write_bytes(rows.tobytes())
            if labels:
                packed = rng.choice(list(LEARNING_MAP), 50).astype(np.uint32) | (rng.integers(0, 300, 50).astype(np.uint32) << 16)
                (root / f"sequences/{name}/labels/{k:06d}.label").write_bytes(packed.astype("<u4").tobytes())
    return root


def test_labels_and_instances(tmp_path: Path) -> None:
    root = make_root(tmp_path, {"00": 2, "08": 1})
    mapped, raw = SemanticKitti(root).frame(1), SemanticKitti(root, mapped=False).frame(1)
    packed = np.fromfile(root / "sequences/00/labels/000001.label", "<u4")
    np.testing.assert_array_equal(raw.point_labels | (raw.instances << 16), packed)
    np.testing.assert_array_equal(mapped.point_labels, [LEARNING_MAP[int(label)] for label in raw.point_labels])
    assert mapped.name == "00/000001" and mapped.sequence == "00" and len(NAMES) == 20
    assert len(SemanticKitti(root, "val")) == 1 and len(SemanticKitti(root, "all")) == 3 and len(SemanticKitti(root, ["08"])) == 1
    with pytest.raises(FileNotFoundError, match="there is 00, 08"):
        SemanticKitti(root, "test")
    with pytest.raises(ValueError, match="split"):
        SemanticKitti(root, "valid")


def test_poses_are_lidar_to_world(tmp_path: Path) -> None:
    root = make_root(tmp_path, {"00": 2}, labels=False)
    assert SemanticKitti(root).provides == {"sequences"}
    # camera looks along LiDAR x; the second camera pose is 5 m forward (camera z)
    (root / "sequences/00/calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 -0.3\n")
    (root / "sequences/00/poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 5\n")
    data = SemanticKitti(root)
    assert data.provides == {"sequences", "poses"}
    np.testing.assert_allclose(data.frame(0).pose, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(data.frame(1).pose, [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-12)
    (root / "sequences/00/poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(ValueError, match="1 poses, but there is a scan '000001'"):
        SemanticKitti(root)


def test_broken_labels(tmp_path: Path) -> None:
    root = make_root(tmp_path, {"00": 3})
    folder = root / "sequences/00/labels"
    (folder / "000000.label").write_bytes(bytes(4 * 49))
    (folder / "000001.label").write_bytes(bytes(4 * 50 + 1))
    (folder / "000002.label").write_bytes(np.full(50, 7, "<u4").tobytes())
    data = SemanticKitti(root)
    for index, reason in enumerate(["expected 50 labels", "expected 50 labels", "label id 7"]):
        with pytest.raises(BadSample, match=reason):
            data.frame(index)


def test_real_scan(shared_data: Path) -> None:
    data = SemanticKitti(shared_data / "semantickitti")
    frame = data.frame(0)
    assert frame.point_labels.max() <= 19 and len(frame.xyz) == len(frame.point_labels) == 123389
    road, car, building = (frame.xyz[frame.point_labels == NAMES.index(name), 2] for name in ("road", "car", "building"))
    assert len(car) > 1000 and np.median(road) < -1.5 < np.median(car) < np.median(building) + 2
    assert (frame.instances[frame.point_labels == NAMES.index("car")] > 0).mean() > 0.9
