"""The thirteen tables of nuScenes (data format v1.0) for a street world."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.kitti_calibration import KittiCalibration
from suite3d.pointcloud.data.street.camera import MOUNT
from suite3d.pointcloud.data.street.config import StreetConfig

CATEGORY = {
    "Car": "vehicle.car",
    "Van": "vehicle.car",
    "Truck": "vehicle.truck",
    "Pedestrian": "human.pedestrian.adult",
    "Cyclist": "vehicle.bicycle",
}
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "pedestrian.moving", "pedestrian.standing", "cycle.with_rider")
CAMERA_ROTATION = (0.5, -0.5, 0.5, -0.5)
"""Quaternion (w, x, y, z) from right-down-forward to forward-left-up."""

_EPOCH = 1_600_000_000_000_000
_SCENE_MICROSECONDS = 10_000_000_000


def token(*parts: object) -> str:
    """32 hex digits, a function of the parts."""
    return hashlib.md5("|".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def scan_file(scene: str, number: int, *, key: bool, camera: bool = False) -> str:
    """File of a recording, relative to the root."""
    folder, channel, suffix = ("samples" if key else "sweeps"), ("CAM_FRONT" if camera else "LIDAR_TOP"), (".png" if camera else ".pcd.bin")
    return f"{folder}/{channel}/{scene}__{channel}__{number:06d}{suffix}"


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


class NuScenesTables:
    """Collects scenes, then writes every table.

    Args:
        config: of the world.
        calibration: of the camera.
        images: whether pictures are there.
        stride: frames from one key frame to the next.
    """

    def __init__(self, config: StreetConfig, calibration: KittiCalibration, *, images: bool, stride: int) -> None:
        self._config, self._images, self._stride = config, images, stride
        categories = sorted(set(CATEGORY.values()))
        mount = [float(value) for value in MOUNT + np.array([0.0, 0.0, config.sensor_height])]
        self.tables: dict[str, list[dict[str, Any]]] = {
            "category": [{"token": token("category", name), "name": name, "description": ""} for name in categories],
            "attribute": [{"token": token("attribute", name), "name": name, "description": ""} for name in ATTRIBUTES],
            "visibility": [{"token": str(k + 1), "level": f"v{low}-{high}", "description": ""} for k, (low, high) in enumerate(_LEVELS)],
            "sensor": [
                {"token": token("sensor", "LIDAR_TOP"), "channel": "LIDAR_TOP", "modality": "lidar"},
                {"token": token("sensor", "CAM_FRONT"), "channel": "CAM_FRONT", "modality": "camera"},
            ],
            "calibrated_sensor": [
                {
                    "token": token("calibrated", "LIDAR_TOP"),
                    "sensor_token": token("sensor", "LIDAR_TOP"),
                    "translation": [0.0, 0.0, config.sensor_height],
                    "rotation": [1.0, 0.0, 0.0, 0.0],
                    "camera_intrinsic": [],
                },
                {
                    "token": token("calibrated", "CAM_FRONT"),
                    "sensor_token": token("sensor", "CAM_FRONT"),
                    "translation": mount,
                    "rotation": list(CAMERA_ROTATION),
                    "camera_intrinsic": calibration.P2[:, :3].tolist(),
                },
            ],
            "log": [{"token": token("log"), "logfile": "street", "vehicle": "street", "date_captured": "2020-09-13", "location": "street-world"}],
            "map": [{"token": token("map"), "log_tokens": [token("log")], "category": "semantic_prior", "filename": ""}],
            "scene": [],
            "sample": [],
            "sample_data": [],
            "ego_pose": [],
            "instance": [],
            "sample_annotation": [],
        }

    def add_scene(self, frames: Sequence[dict[str, Any]]) -> None:
        """Append a drive: its frames in order, as collected by ``writers``."""
        scene = frames[0]["scene"]
        start = _EPOCH + len(self.tables["scene"]) * _SCENE_MICROSECONDS
        times = [start + round(frame["number"] * 1e6 / self._config.frame_rate) for frame in frames]
        keys = list(range(0, len(frames), self._stride))
        samples = [token("sample", scene, k) for k in keys]
        for at, k in enumerate(keys):
            self.tables["sample"].append(
                {
                    "token": samples[at],
                    "timestamp": times[k],
                    "scene_token": token("scene", scene),
                    "prev": samples[at - 1] if at else "",
                    "next": samples[at + 1] if at + 1 < len(keys) else "",
                }
            )
        self.tables["scene"].append(
            {
                "token": token("scene", scene),
                "log_token": token("log"),
                "nbr_samples": len(keys),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": scene,
                "description": f"street world, {frames[0]['split']} split, seed {self._config.seed}",
            }
        )
        self._add_recordings(scene, frames, times, keys, samples)
        self._add_annotations(scene, frames, keys, samples)

    def _add_recordings(self, scene: str, frames: Sequence[dict[str, Any]], times: list[int], keys: list[int], samples: list[str]) -> None:
        for frame, time in zip(frames, times, strict=True):
            pose = frame["pose"]
            self.tables["ego_pose"].append(
                {
                    "token": token("ego", scene, frame["number"]),
                    "timestamp": time,
                    "translation": [float(pose[0, 3]), float(pose[1, 3]), float(pose[2, 3]) - self._config.sensor_height],
                    "rotation": _yaw_quaternion(float(np.arctan2(pose[1, 0], pose[0, 0]))),
                }
            )
        for channel in ("LIDAR_TOP", *(["CAM_FRONT"] if self._images else [])):
            camera = channel == "CAM_FRONT"
            numbers = keys if camera else list(range(len(frames)))
            for at, number in enumerate(numbers):
                nearest = min(range(len(keys)), key=lambda k: (abs(keys[k] - number), k))
                self.tables["sample_data"].append(
                    {
                        "token": token(channel, scene, number),
                        "sample_token": samples[nearest],
                        "ego_pose_token": token("ego", scene, number),
                        "calibrated_sensor_token": token("calibrated", channel),
                        "timestamp": times[number],
                        "fileformat": "png" if camera else "pcd",
                        "is_key_frame": number in keys,
                        "height": self._config.image_height if camera else 0,
                        "width": self._config.image_width if camera else 0,
                        "filename": scan_file(scene, number, key=number in keys, camera=camera),
                        "prev": token(channel, scene, numbers[at - 1]) if at else "",
                        "next": token(channel, scene, numbers[at + 1]) if at + 1 < len(numbers) else "",
                    }
                )

    def _add_annotations(self, scene: str, frames: Sequence[dict[str, Any]], keys: list[int], samples: list[str]) -> None:
        chains: dict[int, list[dict[str, Any]]] = {}
        names: dict[int, str] = {}
        for k, sample in zip(keys, samples, strict=True):
            frame = frames[k]
            pose = frame["pose"]
            heading = float(np.arctan2(pose[1, 0], pose[0, 0]))
            for row, track in enumerate(frame["tracks"].tolist()):
                box, name = frame["boxes"][row].astype(np.float64), frame["classes"][row]
                names[track] = name
                chains.setdefault(track, []).append(
                    {
                        "token": token("box", scene, track, k),
                        "sample_token": sample,
                        "instance_token": token("instance", scene, track),
                        "visibility_token": str(1 + int(np.searchsorted([0.4, 0.6, 0.8], frame["visibility"][row]))),
                        "attribute_tokens": [token("attribute", _attribute(name, box))],
                        "translation": (pose[:3, :3] @ box[:3] + pose[:3, 3]).tolist(),
                        "size": [box[4], box[3], box[5]],
                        "rotation": _yaw_quaternion(float(box[6]) + heading),
                        "prev": "",
                        "next": "",
                        "num_lidar_pts": int(frame["points"][row]),
                        "num_radar_pts": 0,
                    }
                )
        for track, chain in sorted(chains.items()):
            for before, after in zip(chain[:-1], chain[1:], strict=True):
                before["next"], after["prev"] = after["token"], before["token"]
            self.tables["instance"].append(
                {
                    "token": token("instance", scene, track),
                    "category_token": token("category", CATEGORY[names[track]]),
                    "nbr_annotations": len(chain),
                    "first_annotation_token": chain[0]["token"],
                    "last_annotation_token": chain[-1]["token"],
                }
            )
            self.tables["sample_annotation"] += chain

    def write(self, base: Path, version: str, splits: dict[str, list[str]], save: Callable[[Path, bytes], None]) -> None:
        """Save every table with ``save(path, content)``; ``splits.json`` goes beside them."""
        save(base / "splits.json", json.dumps(splits, indent=1).encode())
        for name, rows in self.tables.items():
            save(base / version / f"{name}.json", json.dumps(rows, indent=0).encode())


_LEVELS = ((0, 40), (40, 60), (60, 80), (80, 100))


def _attribute(name: str, box: NDArray[np.float64]) -> str:
    moving = float(np.hypot(box[7], box[8])) > 0.3
    if name == "Cyclist":
        return "cycle.with_rider"
    if name == "Pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return "vehicle.moving" if moving else "vehicle.parked"
