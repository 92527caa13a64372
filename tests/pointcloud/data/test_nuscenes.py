from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite3d.pointcloud.data.boxes import points_per_box
from suite3d.pointcloud.data.nuscenes import NuScenes, choose_scenes
from suite3d.pointcloud.data.poses import quaternion_matrix, rigid
from suite3d.source import BadSample

SPEED = 4.0  # of the ego vehicle along its x axis
STEP = 0.05  # seconds between sweeps; every fifth is a key frame
CAR_SPEED = np.array([1.0, 2.0])
HALF = np.sqrt(0.5)
MOUNT = {"translation": [0.9, 0.0, 1.8], "rotation": [HALF, 0.0, 0.0, -HALF]}  # LiDAR y forward, as in nuScenes


def lidar_pose(seconds: float) -> np.ndarray:
    ego = rigid(quaternion_matrix([1, 0, 0, 0]), [100 + SPEED * seconds, 50, 0])
    return ego @ rigid(quaternion_matrix(MOUNT["rotation"]), MOUNT["translation"])


def make_root(root: Path, scenes: dict[str, int], *, landmarks: np.ndarray, annotate: bool = True) -> Path:
    """Scenes of ``n`` key frames in which every sweep sees the same world points; a car drives through each."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")}
    tables["sensor"] = [{"token": "lidar", "channel": "LIDAR_TOP"}, {"token": "cam", "channel": "CAM_FRONT"}]
    tables["calibrated_sensor"] = [{"token": "mount", "sensor_token": "lidar", **MOUNT}, {"token": "eye", "sensor_token": "cam", **MOUNT}]
    tables["category"] = [{"token": "c0", "name": "vehicle.car"}, {"token": "c1", "name": "animal"}]
    tables["attribute"] = [{"token": "moving", "name": "vehicle.moving"}]
    (root / "samples/LIDAR_TOP").mkdir(parents=True)
    for scene, count in scenes.items():
        keys = [f"{scene}-s{k}" for k in range(count)]
        tables["scene"].append({"token": scene, "name": scene, "first_sample_token": keys[0]})
        tables["instance"] += [{"token": f"{scene}-car", "category_token": "c0"}, {"token": f"{scene}-dog", "category_token": "c1"}]
        sweeps = (count - 1) * 5 + 1
        for k, key in enumerate(keys):
            stamp = round((k * 5 * STEP + 1000) * 1e6)
            tables["sample"].append(
                {"token": key, "timestamp": stamp, "next": keys[k + 1] if k + 1 < count else "", "prev": keys[k - 1] if k else ""}
            )
            link = lambda name, k=k, count=count: {"prev": f"{name}{k - 1}" if k else "", "next": f"{name}{k + 1}" if k + 1 < count else ""}  # noqa: E731
            center = [120 + CAR_SPEED[0] * k * 5 * STEP, 60 + CAR_SPEED[1] * k * 5 * STEP, 1.0]
            common = {"sample_token": key, "size": [2.0, 4.5, 1.6], "rotation": [np.cos(0.25), 0, 0, np.sin(0.25)], "num_radar_pts": 1}
            car = {"token": f"{scene}-a{k}", "instance_token": f"{scene}-car", "translation": center, **link(f"{scene}-a")}
            dog = {"token": f"{scene}-d{k}", "instance_token": f"{scene}-dog", "translation": center, **link(f"{scene}-d")}
            tables["sample_annotation"].append({**common, **car, "attribute_tokens": ["moving"], "num_lidar_pts": 9 - 9 * (k == 1)})
            tables["sample_annotation"].append({**common, **dog, "attribute_tokens": [], "num_lidar_pts": 9})
        for n in range(sweeps):
            seconds, token, file = n * STEP, f"{scene}-l{n}", f"samples/LIDAR_TOP/{scene}-{n}.pcd.bin"
            tables["ego_pose"].append({"token": f"{token}-e", "translation": [100 + SPEED * seconds, 50, 0], "rotation": [1, 0, 0, 0]})
            links = {"prev": f"{scene}-l{n - 1}" if n else "", "next": f"{scene}-l{n + 1}" if n + 1 < sweeps else ""}
            row = {
                "token": token,
                "sample_token": keys[min(-(-n // 5), count - 1)],
                "ego_pose_token": f"{token}-e",
                "calibrated_sensor_token": "mount",
            }
            tables["sample_data"].append({**row, **links, "timestamp": round((seconds + 1000) * 1e6), "is_key_frame": n % 5 == 0, "filename": file})
            inverse = np.linalg.inv(lidar_pose(seconds))
            local = landmarks @ inverse[:3, :3].T + inverse[:3, 3]
            near = np.array([[0.5, 0.5, -1.0]])  # the car's own roof
            cloud = np.concatenate([local, near])
            extra = np.stack([np.full(len(cloud), 51.0), np.arange(len(cloud)) % 32], axis=1)
            (root / file).write_bytes(np.concatenate([cloud, extra], axis=1).astype("<f4").tobytes())
    (root / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        if name != "sample_annotation" or annotate:
            (root / f"v1.0-mini/{name}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def landmarks() -> np.ndarray:
    return np.random.default_rng(0).uniform([90, 30, -2], [150, 70, 4], (60, 3))


def test_sweeps_fall_onto_the_key_frame(tmp_path: Path, landmarks: np.ndarray) -> None:
    data = NuScenes(make_root(tmp_path, {"scene-0061": 4}, landmarks=landmarks), "v1.0-mini", "mini_train")
    assert len(data) == 4 and data.provides == {"boxes", "poses", "sequences"} and data.channels == ("intensity", "time", "ring")
    for k, sweeps in ((0, 1), (1, 6), (3, 10)):
        frame = data.frame(k)
        inverse = np.linalg.inv(lidar_pose(k * 5 * STEP))
        np.testing.assert_allclose(frame.pose, lidar_pose(k * 5 * STEP), atol=1e-9)
        expected = landmarks @ inverse[:3, :3].T + inverse[:3, 3]
        assert len(frame.xyz) == sweeps * len(landmarks) + 1  # the ego roof stays only in the key sweep
        assert frame.meta["sweep_poses"].shape == (sweeps, 4, 4)
        for place in range(sweeps):
            rows = np.isclose(frame.feats[:, 1], -place * STEP, atol=1e-4)
            rows[len(landmarks)] = False if place == 0 else rows[len(landmarks)]
            np.testing.assert_allclose(frame.xyz[rows], expected, atol=1e-3)
        np.testing.assert_allclose(frame.feats[:, 0], 0.2, rtol=1e-6)


def test_boxes_velocities_and_filters(tmp_path: Path, landmarks: np.ndarray) -> None:
    root = make_root(tmp_path, {"scene-0061": 4}, landmarks=landmarks)
    data = NuScenes(root, "v1.0-mini", "all", min_box_points=0)
    frame = data.frame(2)
    assert frame.classes == ["car"] and frame.meta["attributes"] == ["vehicle.moving"]  # animals are no detection class
    inverse = np.linalg.inv(lidar_pose(0.5))
    center = inverse[:3, :3] @ [120.5, 61, 1] + inverse[:3, 3]
    velocity = inverse[:3, :3] @ [*CAR_SPEED, 0]
    np.testing.assert_allclose(frame.boxes[0], [*center, 4.5, 2.0, 1.6, 0.5 + np.pi / 2, *velocity[:2]], atol=1e-4)
    assert len(NuScenes(root, "v1.0-mini", "all").frame(1).boxes) == 0  # no LiDAR point in it there
    assert data.frame(0).track_ids.tolist() == data.frame(3).track_ids.tolist() and data.sequence(3) == "scene-0061"


def test_official_split(tmp_path: Path) -> None:
    scenes = [f"scene-{number:04d}" for number in range(1, 1111)]
    train, _ = choose_scenes(tmp_path, "v1.0-trainval", "train", scenes)
    val, note = choose_scenes(tmp_path, "v1.0-trainval", "val", scenes)
    assert train == set(scenes) - val and note == "official split"
    assert {"scene-0003", "scene-0103", "scene-0553", "scene-0796", "scene-0916", "scene-1073"} <= val
    assert {"scene-0001", "scene-0061", "scene-0655", "scene-0757", "scene-1077", "scene-1094", "scene-1100"} <= train
    assert "hash" in choose_scenes(tmp_path, "v1.0-trainval", "val", [*scenes, "street-0001"])[1]


def test_unknown_velocity_and_hash_split(tmp_path: Path, landmarks: np.ndarray) -> None:
    scenes = {f"scene-{k:04d}": 1 for k in range(12)}
    root = make_root(tmp_path, scenes, landmarks=landmarks[:3])
    assert np.isnan(NuScenes(root, "v1.0-mini", "all", unknown_velocity="nan").frame(0).boxes[0, 7:]).all()
    assert (NuScenes(root, "v1.0-mini", "all").frame(0).boxes[0, 7:] == 0).all()
    train, val = (NuScenes(root, "v1.0-mini", split) for split in ("train", "val"))
    assert len(train) + len(val) == 12 and not set(train.by_sequence()) & set(val.by_sequence()) and len(val) >= 1
    assert "not an official split" in train.split_note
    (root / "splits.json").write_text(json.dumps({"train": ["scene-0003"], "mine": ["scene-0001"]}))
    assert list(NuScenes(root, "v1.0-mini", "mine").by_sequence()) == ["scene-0001"]
    assert list(NuScenes(root, "v1.0-mini", "train").by_sequence()) == ["scene-0003"]
    with pytest.raises(ValueError, match="has train, mine"):
        NuScenes(root, "v1.0-mini", "val")
    (tmp_path / "list.txt").write_text("scene-0004\nscene-0005\n")
    assert len(NuScenes(root, "v1.0-mini", str(tmp_path / "list.txt"))) == 2
    with pytest.raises(ValueError, match="none of the 2 scenes"):
        NuScenes(root, "v1.0-mini", "mini_val")


def test_velocity_needs_near_neighbours(tmp_path: Path, landmarks: np.ndarray) -> None:
    root = make_root(tmp_path, {"scene-0061": 4}, landmarks=landmarks[:3])
    path = root / "v1.0-mini/sample.json"
    rows = json.loads(path.read_text())
    rows[3]["timestamp"] += 3_000_000  # the last key frame comes three seconds late
    path.write_text(json.dumps(rows))
    data = NuScenes(root, "v1.0-mini", "all", min_box_points=0, unknown_velocity="nan")
    known = [np.isfinite(data.frame(k).boxes[0, 7:]).all() for k in range(4)]
    assert known == [True, True, False, False]


def test_broken_tables_and_files(tmp_path: Path, landmarks: np.ndarray) -> None:
    root = make_root(tmp_path, {"scene-0061": 2}, landmarks=landmarks)
    with pytest.raises(FileNotFoundError, match="holds: v1.0-mini"):
        NuScenes(root, "v1.0-trainval", "all")
    next((root / "samples/LIDAR_TOP").glob("*-5.pcd.bin")).write_bytes(b"12345678")
    data = NuScenes(root, "v1.0-mini", "all")
    assert len(data.frame(0).xyz) == 61
    with pytest.raises(BadSample, match="5 columns"):
        data.frame(1)
    (root / "v1.0-mini/ego_pose.json").write_text("[]")
    with pytest.raises(ValueError, match="lacks the field or record"):
        NuScenes(root, "v1.0-mini", "all")
    (root / "v1.0-mini/ego_pose.json").write_text("[")
    with pytest.raises(ValueError, match="not json"):
        NuScenes(root, "v1.0-mini", "all")
    (root / "v1.0-mini/ego_pose.json").unlink()
    with pytest.raises(FileNotFoundError, match="missing nuScenes table"):
        NuScenes(root, "v1.0-mini", "all")


def test_test_set_has_no_boxes(tmp_path: Path, landmarks: np.ndarray) -> None:
    data = NuScenes(make_root(tmp_path, {"scene-0061": 2}, landmarks=landmarks, annotate=False), "v1.0-mini", "all")
    assert "boxes" not in data.provides and data.frame(0).boxes is None


def test_real_key_frame(tmp_path: Path, shared_data: Path) -> None:
    """Real scan and boxes: tables with the boxes in world coordinates give back the recorded LiDAR boxes, which hold their points."""
    about = json.loads(next((shared_data / "nuscenes_keyframe").glob("gt_*.json")).read_text())
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "samples").symlink_to(shared_data / "nuscenes_keyframe/samples")
    mount = {"rotation": about["lidar2ego_rotation_wxyz"], "translation": about["lidar2ego_translation"]}
    ego = {"rotation": about["ego2global_rotation_wxyz"], "translation": about["ego2global_translation"]}
    pose = rigid(quaternion_matrix(ego["rotation"]), ego["translation"]) @ rigid(quaternion_matrix(mount["rotation"]), mount["translation"])
    names = {
        "pedestrian": "human.pedestrian.adult",
        "traffic_cone": "movable_object.trafficcone",
        "barrier": "movable_object.barrier",
        "bus": "vehicle.bus.rigid",
    }
    full = lambda name: names.get(name, {"construction_vehicle": "vehicle.construction"}.get(name, f"vehicle.{name}"))  # noqa: E731
    annotations = []
    for k, entry in enumerate(about["boxes"]):
        x, y, z, length, width, height, yaw = entry["box"]
        world = pose @ [x, y, z, 1]
        turn = pose[:3, :3] @ quaternion_matrix([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
        w = np.sqrt(max(0.0, 1 + np.trace(turn))) / 2
        quaternion = [w, (turn[2, 1] - turn[1, 2]) / (4 * w), (turn[0, 2] - turn[2, 0]) / (4 * w), (turn[1, 0] - turn[0, 1]) / (4 * w)]
        row = {"token": f"a{k}", "sample_token": "s", "instance_token": f"i{k}", "translation": world[:3].tolist(), "size": [width, length, height]}
        annotations.append(
            {
                **row,
                "rotation": quaternion,
                "prev": "",
                "next": "",
                "attribute_tokens": [],
                "num_lidar_pts": entry["num_lidar_pts"],
                "num_radar_pts": 0,
            }
        )
    kinds = sorted({entry["name"] for entry in about["boxes"]})
    tables = {
        "scene": [{"token": "sc", "name": "scene-1", "first_sample_token": "s"}],
        "sample": [{"token": "s", "timestamp": about["timestamp"], "prev": "", "next": ""}],
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [{"token": "m", "sensor_token": "lidar", **mount}],
        "ego_pose": [{"token": "e", **ego}],
        "sample_data": [
            {"token": "d", "sample_token": "s", "ego_pose_token": "e", "calibrated_sensor_token": "m", "timestamp": about["timestamp"]}
            | {"is_key_frame": True, "filename": f"samples/LIDAR_TOP/{about['lidar_file']}", "prev": "", "next": ""}
        ],
        "category": [{"token": name, "name": full(name)} for name in kinds],
        "instance": [{"token": f"i{k}", "category_token": entry["name"]} for k, entry in enumerate(about["boxes"])],
        "attribute": [],
        "sample_annotation": annotations,
    }
    for name, rows in tables.items():
        (tmp_path / f"v1.0-mini/{name}.json").write_text(json.dumps(rows))
    frame = NuScenes(tmp_path, "v1.0-mini", "all", min_box_points=0).frame(0)
    recorded = np.array([entry["box"] for entry in about["boxes"]])
    assert frame.classes == [entry["name"] for entry in about["boxes"]] and len(frame.xyz) == 34752
    np.testing.assert_allclose(frame.boxes[:, :6], recorded[:, :6], atol=1e-3)
    np.testing.assert_allclose(np.exp(1j * frame.boxes[:, 6]), np.exp(1j * recorded[:, 6]), atol=1e-3)
    counted = points_per_box(frame.xyz, frame.boxes)
    stated = np.array([entry["num_lidar_pts"] for entry in about["boxes"]])
    assert np.mean(np.abs(counted - stated) <= np.maximum(2, 0.1 * stated)) > 0.85
