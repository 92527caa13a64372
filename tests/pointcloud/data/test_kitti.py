from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from suite3d.pointcloud.data.boxes import points_per_box
from suite3d.pointcloud.data.kitti import KittiObject
from suite3d.pointcloud.data.kitti_calibration import KittiCalibration, png_size
from suite3d.pointcloud.data.kitti_labels import boxes_to_labels, labels_to_boxes, project_boxes, read_kitti_labels, write_kitti_results
from suite3d.source import BadSample

CALIB = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003
R0_rect: 0.9999 0.0098 -0.0074 -0.0099 0.9999 -0.0043 0.0074 0.0044 1.0
Tr_velo_to_cam: 0.0075 -0.9999 -0.0006 -0.004 0.0148 0.0007 -0.9999 -0.076 0.9999 0.0075 0.0148 -0.27
"""


def make_root(root: Path, ids: list[str], *, labels: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for name in ("velodyne", "calib", "label_2", "image_2"):
        (root / "training" / name).mkdir(parents=True)
    for ident in ids:
        xyz = rng.uniform([-40, -40, -2], [40, 40, 2], (800, 3))
        rows = np.concatenate([xyz, rng.random((800, 1))], axis=1).astype("<f4")
        (root / f"training/velodyne/{ident}.bin").write_bytes(rows.tobytes())
        (root / f"training/calib/{ident}.txt").write_text(CALIB)
        if labels:
            car = "Car 0.00 0 1.55 600.00 150.00 650.00 200.00 1.50 1.60 4.00 1.00 1.70 20.00 1.60\n"
            (root / f"training/label_2/{ident}.txt").write_text(car + "DontCare -1 -1 -10 1 2 30 40 -1 -1 -1 -1000 -1000 -1000 -10\n")
    return root


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))


def image_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    side = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inter = side.clip(0).prod(axis=1)
    return inter / ((a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inter)


def test_frame_and_meta(tmp_path: Path) -> None:
    root = make_root(tmp_path, ["000000", "000007"])
    (root / "training/image_2/000007.png").write_bytes(png(800, 300))
    data = KittiObject(root)
    assert len(data) == 2 and data.provides == {"boxes"} and data.sequence(1) == "000007"
    assert data.image_size(0) == (1242, 375) and data.image_size(1) == (800, 300)
    frame = data.frame(1)
    assert frame.classes == ["Car"] and frame.boxes is not None and frame.boxes.shape == (1, 7)
    np.testing.assert_array_equal(frame.meta["dont_care"], [[1, 2, 30, 40]])
    # only what the camera sees: project the long way round, one point at a time
    calibration = frame.meta["calibration"]
    everything = KittiObject(root, fov_only=False).frame(1)
    seen = []
    for point in everything.xyz.astype(np.float64):
        u, v, w = calibration.P2 @ np.append(calibration.R0 @ (calibration.Tr @ np.append(point, 1)), 1)
        seen.append(w > 0 and 0 <= u / w < 800 and 0 <= v / w < 300)
    np.testing.assert_array_equal(frame.xyz, everything.xyz[np.array(seen)])
    assert 0 < len(frame.xyz) < len(everything.xyz)


def test_boxes_go_to_labels_and_back() -> None:
    rng = np.random.default_rng(1)
    calibration = KittiCalibration(
        np.array([[700, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]]), np.eye(3), np.eye(4)[[1, 2, 0]] * [[-1], [-1], [1]]
    )
    boxes = np.concatenate([rng.uniform([5, -10, -2], [60, 10, 1], (50, 3)), rng.uniform(0.5, 4, (50, 3)), rng.uniform(-3.1, 3.1, (50, 1))], axis=1)
    labels = boxes_to_labels(boxes, ["Car"] * 50, calibration, image_size=(1242, 375))
    back = labels_to_boxes(labels, calibration)
    np.testing.assert_allclose(back[:, :6], boxes[:, :6], atol=1e-5)
    np.testing.assert_allclose(np.exp(1j * back[:, 6]), np.exp(1j * boxes[:, 6]), atol=1e-5)
    # a car driving straight ahead (yaw 0) has rotation_y -pi/2, and -pi/2 viewing angle when it is straight ahead
    ahead = boxes_to_labels(np.array([[20.0, 0, 0, 4, 2, 1.5, 0]]), ["Car"], calibration, image_size=(1242, 375))
    np.testing.assert_allclose([ahead.rotation_y[0], ahead.alpha[0]], [-np.pi / 2, -np.pi / 2], atol=1e-9)


def test_projection_of_a_box_reaching_behind_the_camera(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(CALIB)
    calibration = KittiCalibration.read(tmp_path / "c.txt")
    sizes, turn = np.array([[2.0, 2, 6]]), np.array([np.pi / 2])
    behind = project_boxes(sizes, np.array([[0.0, 1, -10]]), turn, calibration, (1242, 375))
    np.testing.assert_array_equal(behind, np.zeros((1, 4)))
    beside = project_boxes(sizes, np.array([[3.0, 1, 1]]), turn, calibration, (1242, 375))[0]
    # right of the camera and reaching past it: from the far inner corner to the right edge of the image
    far_left = (700 * 2.0 + 600 * 4 + 45) / 4.003
    np.testing.assert_allclose(beside[[0, 2]], [far_left, 1241], atol=0.5)


def test_results_file_round_trip(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(CALIB)
    calibration = KittiCalibration.read(tmp_path / "c.txt")
    boxes = np.array([[20.0, 1, -0.5, 4, 1.8, 1.5, 0.3], [-20.0, 1, -0.5, 4, 1.8, 1.5, 0.3]])
    write_kitti_results(tmp_path / "out/000000.txt", boxes, ["Car", "Car"], np.array([0.9, 0.8]), calibration)
    rows = read_kitti_labels(tmp_path / "out/000000.txt")
    assert rows.classes == ["Car"] and rows.scores[0] == 0.9 and rows.truncated[0] == -1  # the one behind the camera is left out
    np.testing.assert_allclose(labels_to_boxes(rows, calibration)[0], boxes[0], atol=1e-3)
    write_kitti_results(tmp_path / "out/000001.txt", np.zeros((0, 7)), [], np.zeros(0), calibration)
    assert (tmp_path / "out/000001.txt").read_text() == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.txt", "000001.txt"]


def test_real_boxes_project_onto_their_image_labels(shared_data: Path) -> None:
    overlaps, angles = [], []
    for name in ("kitti_object", "kitti_seq0000"):
        data = KittiObject(shared_data / name, "trainval")
        for index in range(0, len(data), 2):
            frame = data.frame(index)
            labels, calibration = frame.meta["labels"], frame.meta["calibration"]
            back = boxes_to_labels(frame.boxes, frame.classes, calibration, image_size=frame.meta["image_size"])
            np.testing.assert_allclose(back.centers, labels.centers, atol=1e-5)
            np.testing.assert_allclose(back.sizes, labels.sizes, atol=1e-6)
            whole = labels.truncated == 0
            overlaps += image_iou(back.boxes2d, labels.boxes2d)[whole].tolist()
            angles += ((back.alpha - labels.alpha + np.pi) % (2 * np.pi) - np.pi).tolist()
    assert len(overlaps) >= 100
    assert np.median(overlaps) > 0.93 and np.mean(np.array(overlaps) > 0.8) > 0.85
    assert np.abs(angles).max() < 0.02


def test_real_boxes_hold_points(shared_data: Path) -> None:
    frame = KittiObject(shared_data / "kitti_object", "trainval").frame(4)
    counts = points_per_box(frame.xyz, frame.boxes)
    mirrored = frame.boxes * np.array([1, -1, 1, 1, 1, 1, -1], np.float32)
    assert frame.name == "000008" and counts.min() >= 50 and points_per_box(frame.xyz, mirrored).sum() < counts.sum() / 5


def test_standard_splits_are_disjoint(shared_data: Path) -> None:
    folder = shared_data / "kitti_standard_splits"
    assert not set((folder / "train.txt").read_text().split()) & set((folder / "val.txt").read_text().split())


def test_splits(tmp_path: Path) -> None:
    root = make_root(tmp_path / "data", ["000000", "000001", "000002"])
    assert len(KittiObject(root, "train")) == len(KittiObject(root, "all")) == 3
    with pytest.raises(FileNotFoundError, match="no lists"):
        KittiObject(root, "val")
    (root / "ImageSets").mkdir()
    (root / "ImageSets/val.txt").write_text("000001\n")
    assert KittiObject(root, "val").ids == ["000001"]
    with pytest.raises(FileNotFoundError, match="there is val"):
        KittiObject(root, "train")
    (tmp_path / "mine.txt").write_text("2\n0\n")
    assert KittiObject(root, tmp_path / "mine.txt").ids == ["000002", "000000"]
    (tmp_path / "twice.txt").write_text("2\n000002\n")
    with pytest.raises(ValueError, match="000002 is listed twice"):
        KittiObject(root, tmp_path / "twice.txt")
    (tmp_path / "gone.txt").write_text("000005 000006")
    with pytest.raises(FileNotFoundError, match="none of the 2 ids"):
        KittiObject(root, tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError, match="training/velodyne"):
        KittiObject(tmp_path / "nowhere")


def test_drives_from_the_devkit_mapping(tmp_path: Path) -> None:
    root = make_root(tmp_path, ["000000", "000001", "000002"])
    (root / "mapping").mkdir()
    (root / "mapping/train_mapping.txt").write_text("2011_09_26 drive_a 0000000001\n2011_09_26 drive_b 0000000002\n2011_09_26 drive_a 0000000003\n")
    (root / "mapping/train_rand.txt").write_text("3,2,1")
    data = KittiObject(root)
    assert "sequences" in data.provides and [data.sequence(k) for k in range(3)] == ["drive_a", "drive_b", "drive_a"]
    assert data.name(1) == "drive_b/000001"
    assert KittiObject(root, sequence="frame").sequence(2) == "000002"
    assert set(KittiObject(root, sequence="one").by_sequence()) == {tmp_path.name}


def test_broken_parts_are_bad_samples(tmp_path: Path) -> None:
    root = make_root(tmp_path, [f"{k:06d}" for k in range(8)])
    training = root / "training"
    (training / "velodyne/000000.bin").write_bytes(b"")
    (training / "label_2/000001.txt").write_text("Car 0 0 1\n")
    (training / "label_2/000002.txt").write_text("Car 0 0 x 600 150 650 200 1.5 1.6 4 1 1.7 20 1.6\n")
    (training / "calib/000003.txt").write_text("P2: 1 2 3\n")
    (training / "calib/000004.txt").unlink()
    (training / "velodyne/000005.bin").write_bytes(np.random.default_rng(0).integers(0, 31, (40, 5)).astype("<f4").tobytes())
    (training / "label_2/000006.txt").unlink()
    packed = lzma.compress((training / "velodyne/000007.bin").read_bytes())
    (training / "velodyne/000007.bin").unlink()
    (training / "velodyne/000007.bin.xz").write_bytes(packed)
    (tmp_path / "list.txt").write_text(" ".join(f"{k:06d}" for k in range(9)))
    data = KittiObject(root, tmp_path / "list.txt")
    reasons = {0: "empty", 1: "15 or 16 columns", 2: "line 1", 3: "P2", 4: "no calibration", 8: "split lists it"}
    for index, reason in reasons.items():
        with pytest.raises(BadSample, match=reason):
            data.frame(index)
    assert data.frame(6).boxes is None and not data.labelled(6) and data.labelled(7)
    assert len(data.frame(7).xyz) > 0


def test_tracking_spelling_and_png(tmp_path: Path) -> None:
    text = CALIB.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    (tmp_path / "a.txt").write_text(CALIB)
    (tmp_path / "b.txt").write_text(text)
    a, b = KittiCalibration.read(tmp_path / "a.txt"), KittiCalibration.read(tmp_path / "b.txt")
    np.testing.assert_array_equal(a.lidar_to_image, b.lidar_to_image)
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="PNG"):
        png_size(tmp_path / "x.png")


def test_real_image_sizes(shared_data: Path) -> None:
    data = KittiObject(shared_data / "kitti_object", "trainval")
    assert data.image_size(0) == (1224, 370) and data.image_size(1) == (1242, 375)
