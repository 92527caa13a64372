from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data.dataset import ConcatDataset
from suite3d.pointcloud.data.folder import ScanFolder
from suite3d.source import BadSample


def put(path: Path, seed: int = 0, *, scale: float = 1.0, columns: int = 4) -> Path:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.normal(size=(60, 3)) * 20, rng.random((60, 1)) * scale, rng.integers(0, 16, (60, 1))], axis=1).astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows[:, :columns].tobytes())
    return path


def test_recursive_natural_order_and_sequences(tmp_path: Path) -> None:
    for name in ("b/velodyne_points/data/10.bin", "b/velodyne_points/data/9.bin", "a/1.bin"):
        put(tmp_path / name)
    (tmp_path / "a/readme.txt").write_text("no scan")
    data = ScanFolder(tmp_path)
    assert [data.name(k) for k in range(3)] == ["a/1.bin", "b/velodyne_points/data/9.bin", "b/velodyne_points/data/10.bin"]
    assert [data.sequence(k) for k in range(3)] == ["a", "b", "b"]
    assert data.provides == {"sequences"} and data.channels == ("intensity",) and data.frame(0).boxes is None


def test_nothing_readable_fails_at_once_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no point files"):
        ScanFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ScanFolder(tmp_path / "none")
    for k in range(3):
        (tmp_path / f"{k}.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 3 scans.*\n.*empty file"):
        ScanFolder(tmp_path)


def test_one_broken_scan_does_not_stop_the_rest(tmp_path: Path) -> None:
    for k in range(4):
        put(tmp_path / f"{k}.bin", k)
    (tmp_path / "1.bin").write_bytes(b"123")
    data = ScanFolder(tmp_path)
    with pytest.raises(BadSample, match="1.bin"):
        data.frame(1)
    assert len(data.frame(2).xyz) == 60


def test_intensity_scale_is_one_for_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "0.bin", 0, scale=1.0)
    put(tmp_path / "1.bin", 1, scale=200.0)
    data = ScanFolder(tmp_path)
    assert data.intensity_scale == 255 and data.frame(0).feats.max() < 1 / 200


def test_channels_are_those_all_share(tmp_path: Path) -> None:
    put(tmp_path / "0.bin", columns=4)
    put(tmp_path / "1.bin", scale=255.0, columns=5)
    data = ScanFolder(tmp_path)
    assert data.channels == ("intensity",) and data.frame(1).feats.shape == (60, 1)
    many = [put(tmp_path / f"more/{k}.bin", scale=255.0, columns=5) for k in range(40)]
    np.save(many[6].with_suffix(".npy"), np.zeros((5, 3), np.float32))  # row 7 of 41, not among the 16 probed
    data = ScanFolder(tmp_path / "more")
    assert data.name(7) == "6.npy" and data.channels == ("intensity", "ring")
    with pytest.raises(BadSample, match="no channel 'intensity'"):
        data.frame(7)


def test_labels_from_either_json(tmp_path: Path) -> None:
    for name in ("a/0.bin", "a/1.bin", "b/0.bin"):
        put(tmp_path / name)
    box = [1, 2, 0, 4, 2, 1.5, 0.3]
    (tmp_path / "labels.json").write_text(json.dumps({"a/0.bin": {"boxes": [box], "classes": ["car"], "track_ids": [7]}}))
    (tmp_path / "b/boxes.json").write_text(json.dumps({"0.bin": {"boxes": [], "classes": []}}))
    data = ScanFolder(tmp_path)
    assert [data.labelled(k) for k in range(3)] == [True, False, True] and data.class_names == ("car",) and "boxes" in data.provides
    frame = data.frame(0)
    np.testing.assert_allclose(frame.boxes, [box], rtol=1e-6)
    assert frame.classes == ["car"] and frame.track_ids.tolist() == [7]
    assert data.frame(1).boxes is None and data.frame(2).boxes.shape == (0, 7)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("[]", "expected an object"),
        ("{", "not json"),
        ('{"0.bin": {"boxes": [[1, 2, 3]], "classes": ["a"]}}', "7 or 9"),
        ('{"0.bin": {"boxes": [[1, 2, 3, 4, 5, -6, 7]], "classes": ["a"]}}', "positive sizes"),
        ('{"0.bin": {"boxes": [[1, 2, 3, 4, 5, 6, 7]], "classes": []}}', "1 boxes but 0 classes"),
        ('{"0.bin": [1]}', "'boxes' and 'classes'"),
        ('{"zero.bin": {"boxes": [], "classes": []}}', "none of its 1 keys"),
    ],
)
def test_damaged_labels_are_refused(tmp_path: Path, table: str, reason: str) -> None:
    put(tmp_path / "0.bin")
    (tmp_path / "labels.json").write_text(table)
    with pytest.raises(ValueError, match=reason):
        ScanFolder(tmp_path)


def test_poses_come_from_the_nearest_file(tmp_path: Path) -> None:
    for name in ("a/data/0.bin", "a/data/1.bin", "b/0.bin"):
        put(tmp_path / name)
    row = "1 0 0 {} 0 1 0 2 0 0 1 3\n"
    (tmp_path / "a/poses.txt").write_text(row.format(5) + row.format(6))
    assert "poses" not in ScanFolder(tmp_path).provides
    (tmp_path / "b/poses.txt").write_text(row.format(9))
    data = ScanFolder(tmp_path)
    assert "poses" in data.provides
    np.testing.assert_array_equal([data.frame(k).pose[:3, 3] for k in range(3)], [[5, 2, 3], [6, 2, 3], [9, 2, 3]])
    (tmp_path / "b/poses.txt").write_text(row.format(9) * 2)
    with pytest.raises(ValueError, match="2 poses for the 1 scans"):
        ScanFolder(tmp_path)
    (tmp_path / "b/poses.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="12 numbers"):
        ScanFolder(tmp_path)
    (tmp_path / "b/poses.txt").write_text("2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(ValueError, match="rigid"):
        ScanFolder(tmp_path)


def test_real_drive(shared_data: Path) -> None:
    data = ScanFolder(shared_data / "kitti_raw")
    assert len(data) == 50 and data.provides == {"poses", "sequences"} and len(data.by_sequence()) == 1
    # the wall and cars seen from frame 0 and 5 fall together under the poses: nearest distances shrink
    first, second = data.frame(0), data.frame(5)
    move = np.linalg.inv(first.pose) @ second.pose
    a, b = first.xyz[::80], second.xyz[::20]
    a, b = (cloud[(np.abs(cloud[:, :2]) < 25).all(axis=1) & (cloud[:, 2] > -1)] for cloud in (a, b))
    nearest = lambda x, y: np.median(np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1).min(1)))  # noqa: E731
    assert nearest(b @ move[:3, :3].T + move[:3, 3], a) < 0.8 * nearest(b, a)


def test_concat_keeps_names_apart(tmp_path: Path) -> None:
    for folder, columns in (("x", 4), ("y", 5)):
        put(tmp_path / folder / "0.bin", scale=255.0, columns=columns)
    (tmp_path / "y/boxes.json").write_text('{"0.bin": {"boxes": [], "classes": []}}')
    both = ConcatDataset([ScanFolder(tmp_path / "x"), ScanFolder(tmp_path / "y")], tags=["x", "y"])
    assert len(both) == 2 and both.name(1) == "y/0.bin" and both.channels == ("intensity",)
    assert both.provides == {"boxes"} and [both.labelled(k) for k in range(2)] == [False, True]
    assert both.frame(1).feats.shape == (60, 1) and both.frame(1).name == "y/0.bin"
    with pytest.raises(IndexError):
        both.frame(2)
    with pytest.raises(ValueError, match="tags"):
        ConcatDataset(both.parts, tags=["x", "x"])
